"""Models as NumPy archives: weights, a list of layers, and the few lines that run them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats import limits
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.runtimes import Runtime, median_ms
from tinyfleet.fedcore.arrays import AnyArray, FloatArray
from tinyfleet.fedcore.models.graph import INPUT, Graph, Op

DESCRIPTION = "model.json"
RUNS = {Op.CONV, Op.LINEAR, Op.RELU, Op.RELU6, Op.ADD, Op.MAX_POOL, Op.GLOBAL_AVG_POOL, Op.FLATTEN}


class Step(msgspec.Struct, frozen=True):
    """One layer of the file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int


class Description(msgspec.Struct, frozen=True):
    """What stands in the archive beside the weights."""

    metadata: dict[str, str]
    steps: list[Step]
    output: str


def write(export: Export) -> bytes:
    """An .npz file: ``NAME.weight``, ``NAME.bias`` and the description. Raises ``ExportError``."""
    arrays: dict[str, AnyArray] = {}
    steps = []
    for layer in export.model.layers:
        if layer.op not in RUNS:
            raise ExportError(f"layer {layer.name} ({layer.op}) cannot be written for NumPy")
        node = layer.node
        steps.append(Step(layer.name, layer.op, layer.inputs, node.kernel, node.stride, node.padding, node.groups))
        if layer.weight is not None and layer.bias is not None:
            arrays |= {f"{layer.name}.weight": layer.weight, f"{layer.name}.bias": layer.bias}
    described = msgspec.json.encode(Description(dict(export.metadata), steps, export.model.output))
    arrays[DESCRIPTION] = np.frombuffer(described, np.uint8)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def density(content: bytes, graph: Graph) -> float:
    """Weights that are not zero, as a share of the graph's maskable ones."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        used = sum(int(np.count_nonzero(file[name])) for name in graph.maskable)
    return used / sum(graph.params[name].size for name in graph.maskable)


class NumPy:
    """Runs such a file: a reference, not a fast one."""

    name = "numpy"

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays: dict[str, FloatArray] = {name: file[name] for name in file.files}
            self._model = msgspec.json.decode(self._arrays.pop(DESCRIPTION).tobytes(), type=Description)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise ExportError(f"{path} is no model for NumPy: {error}") from None

    def run(self, x: FloatArray) -> FloatArray:
        """Logits (N, classes)."""
        values = {INPUT: x}
        for step in self._model.steps:
            values[step.name] = self._value(step, [values[name] for name in step.inputs])
        return values[self._model.output]

    def latency_ms(self, sample: FloatArray) -> float:
        """Median of runs at batch 1."""
        return median_ms(lambda: self.run(sample))

    def _value(self, step: Step, inputs: list[FloatArray]) -> FloatArray:
        x = inputs[0]
        match step.op:
            case Op.CONV:
                x = convolved(x, self._arrays[f"{step.name}.weight"], step)
                x = x + self._arrays[f"{step.name}.bias"].reshape(-1, *[1] * (x.ndim - 2))
            case Op.LINEAR:
                x = x @ self._arrays[f"{step.name}.weight"].T + self._arrays[f"{step.name}.bias"]
            case Op.RELU:
                x = np.maximum(x, 0)
            case Op.RELU6:
                x = np.clip(x, 0, 6)
            case Op.ADD:
                x = x + inputs[1]
            case Op.MAX_POOL:
                x = windows(x, step, -np.inf).max(axis=tuple(range(-len(step.kernel), 0)))
            case Op.GLOBAL_AVG_POOL:
                x = x.mean(axis=tuple(range(2, x.ndim)))
            case Op.FLATTEN:
                x = x.reshape(len(x), -1)
        return x


def convolved(x: FloatArray, weight: FloatArray, step: Step) -> FloatArray:
    """(N, C, *spatial) under (out, C / groups, *kernel), group by group."""
    axes = ((1, *range(-len(step.kernel), 0)), tuple(range(1, weight.ndim)))
    pairs = zip(np.split(x, step.groups, axis=1), np.split(weight, step.groups), strict=True)
    parts = [np.tensordot(windows(part, step, 0.0), filters, axes) for part, filters in pairs]
    return np.moveaxis(np.concatenate(parts, axis=-1), -1, 1)


def windows(x: FloatArray, step: Step, filler: float) -> FloatArray:
    """What each output of a convolution or a pooling sees: (N, C, *output, *kernel)."""
    padded = np.pad(x, ((0, 0), (0, 0), *((size, size) for size in step.padding)), constant_values=filler)
    axes = tuple(range(2, x.ndim))
    seen: FloatArray = np.lib.stride_tricks.sliding_window_view(padded, step.kernel, axes)  # type: ignore[call-overload]
    return seen[(slice(None), slice(None), *(slice(None, None, stride) for stride in step.stride))]


def open_here(path: Path) -> Iterator[Runtime]:
    """NumPy is always here."""
    yield NumPy(path)


FP32 = ExportFormat("numpy", "fp32", "npz", "channels first", limits.FP32, write, open_here, density=density)
