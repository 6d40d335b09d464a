"""Deployed sparse models: the native engine against onnxruntime and LiteRT at batch 1 on one thread.

Weights and masks are random, with the same density in every layer: nothing is left for ``export.compact`` to
remove but in MobileNetV2, so this is what unstructured sparsity is worth by itself.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyfleet.bench.inference_memory import Request, measure
from tinyfleet.export.compact import compact
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.format import Export
from tinyfleet.export.formats.table import FORMATS, missing_formats
from tinyfleet.export.inference_graph import Inference, merge
from tinyfleet.export.runtimes import Runtime, open_all
from tinyfleet.fedcore.arrays import FloatArray, Params
from tinyfleet.fedcore.models.graph import Graph, Role
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import apply_mask, random_mask

INPUT_SHAPE, CLASSES = (3, 32, 32), 10
MODELS, DENSITIES = ("resnet8", "resnet18", "mobilenet_v2"), (0.01, 0.05, 0.1)
CALIBRATION_SAMPLES = 32
BURST = 5  # timed runs in a row, after one that brings the file's weights into the caches
NATIVE = "sparse-fp32"
COMPARED = (NATIVE, "onnx-fp32", "tflite-fp32", "tflite-int8")


@dataclass(frozen=True, slots=True)
class InferenceRow:
    """One file in its runtime. MB are 10^6 bytes; ``memory_mb`` is the peak above Python and numpy."""

    model: str
    density: float
    format: str
    runtime: str
    file_bytes: int
    latency_ms: float  # median, batch 1, one thread; files of a model and density in turn
    cpu_ms: float  # median processor time of the same runs: what a busy machine does not change
    latency_ratio: float  # over the native engine's
    cpu_ratio: float
    peak_mb: float  # of a fresh process
    memory_mb: float
    max_rel_error: float  # of the logits, against onnxruntime


def bench_inference(
    models: Sequence[str], densities: Sequence[float], rounds: int, progress: Callable[[str, int, int], None]
) -> list[InferenceRow]:
    """A row a file. Raises ``ExportError`` without the native engine, ``DataError`` where a child process fails."""
    if NATIVE in missing_formats():
        raise ExportError(f"there is nothing to compare: {missing_formats()[NATIVE]}")
    rows = []
    cells = [(model, density) for model in models for density in densities]
    for index, (model, density) in enumerate(cells):
        progress(f"{model} d={density:g}", index, len(cells))
        with tempfile.TemporaryDirectory() as directory:
            rows += measured(model, density, rounds, Path(directory))
    progress("done", len(cells), len(cells))
    return rows


def measured(model: str, density: float, rounds: int, directory: Path) -> list[InferenceRow]:
    """All files of one model at one density, written into ``directory``."""
    graph = build(ModelSettings(model, INPUT_SHAPE, CLASSES))
    files = written(deployed(graph, density), directory)
    opened = {name: next(open_all(path), None) for name, path in files.items()}
    runtimes = {name: runtime for name, runtime in opened.items() if runtime is not None}
    x = _samples(1)
    logits = {name: runtime.run(x) for name, runtime in runtimes.items()}
    times = interleaved(runtimes, x, rounds)
    rows = []
    for name, runtime in runtimes.items():
        memory = measure(Request(str(files[name]), INPUT_SHAPE))
        reference = logits.get("onnx-fp32", logits[NATIVE])
        rows.append(
            InferenceRow(
                model,
                density,
                name,
                runtime.name,
                files[name].stat().st_size,
                *times[name],
                times[name][0] / times[NATIVE][0],
                times[name][1] / times[NATIVE][1],
                memory.peak_bytes / 1e6,
                (memory.peak_bytes - memory.baseline_bytes) / 1e6,
                float(np.abs(logits[name] - reference).max() / np.abs(reference).max()),
            )
        )
    return rows


def deployed(graph: Graph, density: float) -> Inference:
    """A merged and compacted model with random numbers everywhere, in biases and statistics too."""
    rng = np.random.default_rng(0)
    params: Params = graph.initial_params(0)
    for name, spec in graph.params.items():
        if spec.role in (Role.RUNNING_MEAN, Role.NORM_SHIFT, Role.BIAS):
            params[name] = rng.normal(0, 0.2, spec.shape).astype(np.float32)
        elif spec.role in (Role.RUNNING_VAR, Role.NORM_SCALE):
            params[name] = rng.uniform(0.5, 1.5, spec.shape).astype(np.float32)
    shapes = {name: graph.params[name].shape for name in graph.maskable}
    mask = random_mask(shapes, uniform_counts(shapes, density), rng)
    apply_mask(params, mask)
    return compact(merge(graph, params, mask))


def written(model: Inference, directory: Path) -> dict[str, Path]:
    """The model in every format, by name."""
    export = Export(model, {}, _samples(CALIBRATION_SAMPLES))
    paths = {}
    for name in COMPARED:
        paths[name] = directory / f"{name}.{FORMATS[name].suffix}"
        paths[name].write_bytes(FORMATS[name].write(export))
    return paths


def interleaved(runtimes: dict[str, Runtime], x: FloatArray, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each: passed, and of the processor. In every round each has its turn.

    A slow spell of the machine then slows all of them.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runtimes}
    for _ in range(rounds):
        for name, runtime in runtimes.items():
            runtime.run(x)
            for _ in range(BURST):
                start, used = time.perf_counter(), time.process_time()
                runtime.run(x)
                times[name].append((time.perf_counter() - start, time.process_time() - used))
    return {
        name: (_median_ms(t[0] for t in found), _median_ms(t[1] for t in found)) for name, found in times.items()
    }


def _median_ms(seconds: Iterable[float]) -> float:
    return statistics.median(seconds) * 1e3


def _samples(count: int) -> FloatArray:
    return np.random.default_rng(1).standard_normal((count, *INPUT_SHAPE)).astype(np.float32)
