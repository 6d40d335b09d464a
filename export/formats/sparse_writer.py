"""Files of the native engine: only the weights that are left, stored and computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

import sparse_engine
from sparse_engine.file.sections import Precision
from tinyfleet.export.errors import ExportError
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.training.native.model import layer_of


def write_sparse(model: Inference, precision: Precision, metadata: Mapping[str, str]) -> bytes:
    """The model as a file that ``sparse_engine.load`` reads; ``precision`` is of its weights, biases are fp32.

    Raises ``ExportError`` where the engine cannot run a layer, or a weight is too large for ``precision``.
    """
    last = [layer.name for layer in model.layers].index(model.output)
    layers = model.layers[: last + 1]  # nothing behind the output has a share in it
    params: Params = {}
    for layer in layers:
        if layer.weight is not None and layer.bias is not None:
            params |= {f"{layer.name}.weight": layer.weight, f"{layer.name}.bias": layer.bias}
    try:
        described = sparse_engine.Model(model.input_shape, tuple(_described(layer) for layer in layers))
        return sparse_engine.dump(described, params, precision=precision, metadata=metadata)
    except ValueError as error:
        raise ExportError(f"{model.name} cannot be written for the sparse engine: {error}") from None


def multiply_adds(model: Inference) -> int:
    """Multiply-adds of one sample with weights that are not zero; two FLOPs each."""
    return sum(
        int(np.count_nonzero(layer.weight)) * math.prod(layer.shape[1:])
        for layer in model.layers
        if layer.weight is not None
    )


def measured_density(content: bytes, graph: Graph) -> float:
    """Weights in a file, as a share of the graph's maskable ones."""
    arrays = sparse_engine.load_bytes(content).arrays
    total = sum(graph.params[name].size for name in graph.maskable)
    return sum(len(arrays[name].values) for name in graph.maskable) / total if total else 1.0


def _described(layer: Layer) -> sparse_engine.Layer:
    node = layer.node
    # A bias that is zero everywhere would cost a pass over the output.
    biased = layer.bias is not None and bool(layer.bias.any())
    # Weights have their norms and gains in them by now.
    return replace(layer_of(node), inputs=layer.inputs, bias=biased, weight_norm="", gain=1.0)
