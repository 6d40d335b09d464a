"""What a finished model costs where it is used: multiply-adds, file and latency after dead channels are gone."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyfleet.export.compact import compact, multiply_adds
from tinyfleet.export.formats.onnx import write_onnx
from tinyfleet.export.inference_graph import merge
from tinyfleet.export.metadata import metadata_of
from tinyfleet.export.runtimes import OnnxRuntime
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.sparsity.mask import density


@dataclass(frozen=True, slots=True)
class Deployed:
    """Of the ONNX fp32 file. ``latency_ms``: onnxruntime, one thread, batch 1, median."""

    multiply_adds: int
    multiply_adds_dense: int  # of the same network with all its channels
    file_bytes: int
    latency_ms: float


def deployed_cost(graph: Graph, model: Payload) -> Deployed:
    """Merge, compact, write and time one model. Raises ``ExportError`` where it cannot be written."""
    whole = merge(graph, model.params, model.mask)
    small = compact(whole)
    content = write_onnx(small, metadata_of(graph, density(model.mask), None))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(content)
        sample = np.random.default_rng(0).standard_normal((1, *graph.input_shape)).astype(np.float32)
        latency = OnnxRuntime(path).latency_ms(sample)
    return Deployed(multiply_adds(small), multiply_adds(whole), len(content), latency)
