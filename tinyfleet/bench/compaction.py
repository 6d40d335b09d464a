"""What compaction removes of a sparse model, by its mask: ``python -m tinyfleet.bench.compaction FILE.json``.

Weights are random; multiply-adds and bytes follow from the mask alone, so that every machine gets the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from tinyfleet.export.compact import compact, multiply_adds
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.inference_graph import merge
from tinyfleet.fedcore.arrays import Mask, Params
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.models.graph import Graph, Role
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.global_mask import global_mask
from tinyfleet.fedcore.sparsity.mask import apply_mask, random_mask

INPUT_SHAPE, CLASSES = (3, 32, 32), 10


@dataclass(frozen=True, slots=True)
class CompactionRow:
    """One model under one mask, before and after; bytes are the ONNX file's in fp32."""

    model: str
    density: float  # asked for; of the active weights that there are
    mask: str
    multiply_adds: int
    multiply_adds_compact: int
    onnx_bytes: int
    onnx_bytes_compact: int


def alike(graph: Graph, params: Params, density: float) -> Mask:
    """Random, of equal density in all layers."""
    return random_mask(
        graph.maskable_shapes, uniform_counts(graph.maskable_shapes, density), np.random.default_rng(1)
    )


def largest(graph: Graph, params: Params, density: float) -> Mask:
    """The largest weights of all layers together."""
    return global_mask({name: np.abs(params[name]) for name in graph.maskable}, density)


def lines(graph: Graph, params: Params, density: float) -> Mask:
    """Whole filters and input channels, drawn at random; the first of each stay."""
    rng, mask = np.random.default_rng(1), {}
    for name in graph.maskable:
        shape = graph.params[name].shape
        rows, columns = (rng.random(size) < density**0.5 for size in shape[:2])
        rows[0] = columns[0] = True
        kept = (rows[:, None] & columns).reshape(*shape[:2], *[1] * (len(shape) - 2))
        mask[name] = np.array(np.broadcast_to(kept, shape))
    return mask


MASKS: dict[str, Callable[[Graph, Params, float], Mask]] = {
    "alike in all layers": alike,
    "largest weights of all layers": largest,
    "whole rows and columns": lines,
}
CELLS = (
    ("resnet18", 0.01, "alike in all layers"),
    ("resnet18", 0.01, "largest weights of all layers"),
    ("resnet18", 0.05, "alike in all layers"),
    ("resnet18", 0.05, "whole rows and columns"),
    ("mobilenet_v2", 0.01, "alike in all layers"),
    ("mobilenet_v2", 0.01, "largest weights of all layers"),
    ("mobilenet_v2", 0.05, "alike in all layers"),
    ("mobilenet_v2", 0.05, "whole rows and columns"),
)


def measure(model: str, density: float, mask: str) -> CompactionRow:
    """One cell."""
    graph = build(ModelSettings(model, INPUT_SHAPE, CLASSES))
    rng, params = np.random.default_rng(0), graph.initial_params(0)
    for name, spec in graph.params.items():
        if spec.role in (Role.RUNNING_MEAN, Role.NORM_SHIFT, Role.BIAS):
            params[name] = rng.normal(0, 0.2, spec.shape).astype(np.float32)
    chosen = MASKS[mask](graph, params, density)
    apply_mask(params, chosen)
    whole = merge(graph, params, chosen)
    small = compact(whole)
    sizes = (len(write_onnx(one, {})) for one in (whole, small))
    return CompactionRow(model, density, mask, multiply_adds(whole), multiply_adds(small), *sizes)


if __name__ == "__main__":
    rows = [asdict(measure(*cell)) for cell in CELLS]
    write_atomic(Path(sys.argv[1]), msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
