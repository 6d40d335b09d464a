"""From a trained graph to plain inference layers: batch norm disappears into the layer before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from export.errors import ExportError
from fedcore.arrays import FloatArray, Mask, Params
from fedcore.models.graph import BN_EPSILON, INPUT, Graph, Node, Op


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One inference layer. ``shape`` is its output without the batch, channels first."""

    node: Node
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    weight: FloatArray | None = None
    bias: FloatArray | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def op(self) -> Op:
        return self.node.op


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """Layers in execution order; ``output`` names the one that gives the logits."""

    name: str
    input_shape: tuple[int, ...]
    classes: int
    layers: tuple[Layer, ...]
    output: str

    def readers(self) -> Counter[str]:
        """How many layers read each layer's output; the model's own output counts as one more."""
        return Counter([source for layer in self.layers for source in layer.inputs] + [self.output])


def fold(graph: Graph, params: Params, mask: Mask) -> Inference:
    """Fold every batch norm (running statistics) into the convolution or linear layer that it follows.

    Float64 arithmetic, float32 results; masked weights stay exactly zero.
    Raises ``ExportError`` where a batch norm follows anything else, or a layer that others read too.
    """
    readers = Counter(source for node in graph.nodes for source in node.inputs)
    renamed = {INPUT: INPUT}
    layers: dict[str, Layer] = {}
    for node in graph.nodes:
        inputs = tuple(renamed[name] for name in node.inputs)
        if node.op is Op.BATCH_NORM:
            host = layers.get(inputs[0])
            if host is None or host.weight is None or readers[node.inputs[0]] != 1:
                raise ExportError(
                    f"{graph.name}: batch norm {node.name} does not directly follow a convolution or linear layer "
                    "of its own; it cannot be folded"
                )
            layers[host.name] = _with_norm(host, node, params)
            renamed[node.name] = host.name
            continue
        weight = bias = None
        if node.op in (Op.CONV, Op.LINEAR):
            weight = params[node.weight].astype(np.float32)
            if node.weight in mask:
                weight = np.where(mask[node.weight], weight, np.float32(0.0))
            bias = params[f"{node.name}.bias"] if node.bias else np.zeros(len(weight), np.float32)
        layers[node.name] = Layer(node, inputs, graph.shapes[node.name], weight, bias)
        renamed[node.name] = node.name
    return Inference(graph.name, graph.input_shape, graph.classes, tuple(layers.values()), renamed[graph.output])


def _with_norm(host: Layer, norm: Node, params: Params) -> Layer:
    scale, shift = params[norm.weight].astype(np.float64), params[f"{norm.name}.bias"].astype(np.float64)
    mean = params[f"{norm.name}.running_mean"].astype(np.float64)
    var = params[f"{norm.name}.running_var"].astype(np.float64)
    factor = scale / np.sqrt(var + BN_EPSILON)
    if host.weight is None or host.bias is None:
        raise ExportError(f"layer {host.name} has no weights to fold {norm.name} into")
    weight = host.weight * factor.reshape(-1, *[1] * (host.weight.ndim - 1))
    bias = (host.bias - mean) * factor + shift
    return replace(host, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
