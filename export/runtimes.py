"""Where files are verified: onnxruntime, LiteRT, its predecessor tflite-runtime, and the native engine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.training.native.facts import NATIVE

LATENCY_RUNS = 50
LATENCY_SECONDS = 2.0  # after which there are fewer runs, but as many as warm up
WARM_UP_RUNS = 5
BATCH = 64  # a whole test set at once takes gigabytes of activations


class Runtime(Protocol):
    """One loaded file. ``x`` is channels-first, as the model was trained."""

    name: str

    def run(self, x: FloatArray) -> FloatArray:
        """Logits (N, classes)."""
        ...

    def latency_ms(self, sample: FloatArray) -> float:
        """Median of single-threaded runs at batch 1, input and output copies included."""
        ...


def median_ms(run: Any) -> float:
    """Median milliseconds of a call, after some that do not count."""
    times: list[float] = []
    while len(times) < 2 * WARM_UP_RUNS or (
        sum(times) < LATENCY_SECONDS and len(times) < LATENCY_RUNS + WARM_UP_RUNS
    ):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP_RUNS:]) * 1e3


class OnnxRuntime:
    """onnxruntime on the CPU."""

    name = "onnxruntime"

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def run(self, x: FloatArray) -> FloatArray:
        return np.concatenate([self._once(x[start : start + BATCH]) for start in range(0, len(x), BATCH)])

    def latency_ms(self, sample: FloatArray) -> float:
        return median_ms(lambda: self._once(sample))

    def _once(self, x: FloatArray) -> FloatArray:
        logits: FloatArray = self._session.run(None, {self._input: x})[0]
        return logits


class SparseEngine:
    """The native engine, which stores and computes only what is not zero."""

    name = "sparse-engine"

    def __init__(self, path: Path) -> None:
        import sparse_engine

        self._model = sparse_engine.load(path)

    def run(self, x: FloatArray) -> FloatArray:
        return self._model.predict(x)

    def latency_ms(self, sample: FloatArray) -> float:
        return median_ms(lambda: self._model.predict(sample))


class TfliteRuntime:
    """LiteRT or tflite-runtime, whichever ``interpreter`` is."""

    def __init__(self, path: Path, name: str, interpreter: Any, **options: Any) -> None:
        self.name = name
        with _quiet():
            self._interpreter = interpreter(str(path), num_threads=1, **options)
        self._batch = 0

    def run(self, x: FloatArray) -> FloatArray:
        return np.concatenate([self._once(nhwc(x[start : start + BATCH])) for start in range(0, len(x), BATCH)])

    def latency_ms(self, sample: FloatArray) -> float:
        value = nhwc(sample)
        return median_ms(lambda: self._once(value))

    def tensors(self, x: FloatArray) -> dict[str, FloatArray]:
        """Every float tensor by name after running ``x`` (needs an interpreter that preserves them)."""
        self._once(nhwc(x))
        return {
            detail["name"]: self._interpreter.get_tensor(detail["index"])
            for detail in self._interpreter.get_tensor_details()
            # An operator's own workspace has no name, nor numbers that mean anything.
            if detail["name"] and detail["dtype"] == np.float32 and len(detail["shape"]) > 1
        }

    def _once(self, value: FloatArray) -> FloatArray:
        entry, leave = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        if len(value) != self._batch:
            with _quiet():
                self._interpreter.resize_tensor_input(entry["index"], value.shape)
                self._interpreter.allocate_tensors()
            self._batch = len(value)
        self._interpreter.set_tensor(entry["index"], value)
        self._interpreter.invoke()
        logits: FloatArray = self._interpreter.get_tensor(leave["index"])
        return logits


def nhwc(x: FloatArray) -> FloatArray:
    """(N, C, H, W) -> (N, H, W, C); (N, C, L) -> (N, 1, L, C); (N, C) as it is."""
    if x.ndim == 2:
        return np.ascontiguousarray(x)
    x = x if x.ndim == 4 else x[:, :, None, :]
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def missing_runtimes() -> dict[str, str]:
    """Runtimes that cannot be used here, and why."""
    missing = {}
    for name, module in (("onnxruntime", "onnxruntime"), ("ai-edge-litert", "ai_edge_litert")):
        if importlib.util.find_spec(module) is None:
            missing[name] = f"not installed: pip install {name}"
    if importlib.util.find_spec("tflite_runtime") is None:
        missing["tflite-runtime"] = "not installed (its successor is ai-edge-litert)"
    elif int(np.__version__.split(".")[0]) >= 2:
        missing["tflite-runtime"] = f"works with numpy 1 only, here is numpy {np.__version__}"
    if fault := NATIVE.fault():
        missing["sparse-engine"] = f"{fault}: {NATIVE.install}"
    return missing


def open_onnx(path: Path) -> Iterator[Runtime]:
    """An ONNX file in onnxruntime, where that is here."""
    if "onnxruntime" not in missing_runtimes():
        yield OnnxRuntime(path)


def open_sparse(path: Path) -> Iterator[Runtime]:
    """A file of the native engine in it, where that is here."""
    if "sparse-engine" not in missing_runtimes():
        yield SparseEngine(path)


def open_tflite(path: Path) -> Iterator[Runtime]:
    """A TFLite file in every interpreter that is here."""
    for name, interpreter in _interpreters(missing_runtimes()):
        yield TfliteRuntime(path, name, interpreter)


OPENERS = {".onnx": open_onnx, ".tfse": open_sparse, ".tflite": open_tflite}


def open_all(path: Path) -> Iterator[Runtime]:
    """A file of one of our own formats in every runtime that is here, by its suffix.

    For whoever measures a runtime's memory: nothing that writes files is imported.
    """
    if path.suffix not in OPENERS:
        raise ExportError(f"{path}: nothing here runs such files; give one that ends with {', '.join(OPENERS)}")
    yield from OPENERS[path.suffix](path)


def open_preserving(path: Path) -> TfliteRuntime | None:
    """The file in a TFLite runtime that keeps every tensor readable; None where there is none."""
    for name, interpreter in _interpreters(missing_runtimes()):
        resolver = _plain_resolver(name)
        return TfliteRuntime(
            path, name, interpreter, experimental_preserve_all_tensors=True, experimental_op_resolver_type=resolver
        )
    return None


def _interpreters(missing: dict[str, str]) -> Iterator[tuple[str, Any]]:
    if "ai-edge-litert" not in missing:
        from ai_edge_litert.interpreter import Interpreter

        yield "ai-edge-litert", Interpreter
    if "tflite-runtime" not in missing:
        from tflite_runtime.interpreter import Interpreter as Former

        yield "tflite-runtime", Former


def _plain_resolver(name: str) -> Any:
    """Without delegates: a delegate hides the tensors inside it."""
    if name == "ai-edge-litert":
        from ai_edge_litert.interpreter import OpResolverType
    else:
        from tflite_runtime.interpreter import OpResolverType
    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the runtimes' own chatter (C++ writing to stderr) off the terminal."""
    saved = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
