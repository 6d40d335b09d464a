"""From a trained graph to plain inference layers.

Batch norm disappears into the layer before it, weight normalisation into the weights, and the gain of a ReLU
into the layers after it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.fedcore.arrays import FloatArray, Mask, Params
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node
from tinyfleet.fedcore.models.layers.kind import Affine, Scaling
from tinyfleet.fedcore.models.layers.table import kind_of, known
from tinyfleet.fedcore.models.weight_norm import normalized_weight


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
    def op(self) -> str:
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


def merge(graph: Graph, params: Params, mask: Mask) -> Inference:
    """Merge batch norms (running statistics), normalised weights (FedMef, section 3.3) and ReLU gains into weights.

    Float64 arithmetic, float32 results; masked weights stay exactly zero.
    Raises ``ExportError`` where a batch norm follows anything but a layer with weights of its own, or a gain cannot
    be moved into weights; ``UnsupportedLayer``.
    """
    readers = Counter(source for node in graph.nodes for source in node.inputs)
    weighted = {node.name for node in graph.weighted}
    renamed = {INPUT: INPUT}
    layers: dict[str, Layer] = {}
    # A gain costs nothing: layers compute without it, and the true value is scale * computed value.
    scales = {INPUT: 1.0}
    for node in graph.nodes:
        inputs = tuple(renamed[name] for name in node.inputs)
        kind = kind_of(node)
        scaling = known(kind.scaling, node, "the exporter")
        if kind.vanishes:
            # Whoever reads its input beside it reads what its own readers do.
            readers[node.name] = max(readers[node.name], readers[node.inputs[0]])
            scales[node.name] = scales[inputs[0]]
            renamed[node.name] = inputs[0]
            continue
        if kind.affine is not None:
            host = layers.get(inputs[0])
            if host is None or host.weight is None or readers[node.inputs[0]] != 1:
                raise ExportError(
                    f"{graph.name}: {node.op} {node.name} can be merged only into a layer with weights "
                    "of its own, right before it"
                )
            layers[host.name] = _with_affine(host, kind.affine(node, params))
            renamed[node.name] = host.name
            continue
        weight = bias = None
        if node.name in weighted:
            weight = _weight(node, params, mask, scales[inputs[0]])
            bias = params[f"{node.name}.bias"] if node.bias else np.zeros(len(weight), np.float32)
        elif len(inputs) > 1:
            own = {renamed[name] for name in node.inputs if readers[name] == 1}
            _match(node, inputs, own, layers, scales)
        scales[node.name] = _scale(node, scaling, scales[inputs[0]])
        layers[node.name] = Layer(node, inputs, graph.shapes[node.name], weight, bias)
        renamed[node.name] = node.name
    output = renamed[graph.output]
    if scales[output] != 1.0:
        raise ExportError(f"{graph.name}: {output} ends the model with a gain; put a linear layer after it")
    return Inference(graph.name, graph.input_shape, graph.classes, tuple(layers.values()), output)


def _weight(node: Node, params: Params, mask: Mask, scale: float) -> FloatArray:
    """The weights that read an input of which the true value is ``scale`` times the computed one."""
    weight, active = params[node.weight].astype(np.float32), mask.get(node.weight)
    if node.weight_norm:
        weight = normalized_weight(weight, params[node.filter_gain], active, node.weight_norm)
    elif active is not None:
        weight = np.where(active, weight, np.float32(0.0))
    return weight if scale == 1.0 else _times(weight, scale)


def _scale(node: Node, scaling: Scaling, source: float) -> float:
    """Scale of a layer's output, given its input's."""
    if scaling is Scaling.ABSORBED:
        return 1.0
    if scaling is Scaling.FIXED and source != 1.0:
        raise ExportError(
            f"{node.name}: a {node.op} of an input with gain {source:.6g}; put a convolution between them"
        )
    if not node.gain > 0.0:
        raise ExportError(f"{node.name}: gain {node.gain} is not positive")
    return source * node.gain


def _match(
    node: Node, inputs: tuple[str, ...], own: set[str], layers: dict[str, Layer], scales: dict[str, float]
) -> None:
    """Bring all branches that meet to one scale, through the weights of branches that only this layer reads."""
    fixed = [name for name in inputs if not _adjustable(name, own, layers)]
    aim = scales[fixed[0] if fixed else inputs[-1]]
    for name in inputs:
        if math.isclose(scales[name], aim):
            continue
        layer = layers.get(name)
        if name in fixed or layer is None or layer.weight is None or layer.bias is None:
            gains = " and ".join(f"{scales[each]:.6g}" for each in inputs)
            raise ExportError(
                f"{node.name} reads {' and '.join(inputs)} with unequal gains {gains}; "
                "all of them but one must be layers with weights that nothing else reads"
            )
        factor = scales[name] / aim
        layers[name] = replace(layer, weight=_times(layer.weight, factor), bias=_times(layer.bias, factor))
        scales[name] = aim


def _adjustable(name: str, own: set[str], layers: dict[str, Layer]) -> bool:
    return name in own and name in layers and layers[name].weight is not None


def _times(array: FloatArray, factor: float) -> FloatArray:
    product: FloatArray = (array.astype(np.float64) * factor).astype(np.float32)
    return product


def _with_affine(host: Layer, y: Affine) -> Layer:
    """The layer with a factor and a shift of every output channel in its weights and biases."""
    if host.weight is None or host.bias is None:
        raise ExportError(f"layer {host.name} has no weights to merge a norm into")
    weight = host.weight * y.factor.reshape(-1, *[1] * (host.weight.ndim - 1))
    bias = (host.bias - y.centre) * y.factor + y.shift
    return replace(host, weight=weight.astype(np.float32), bias=bias.astype(np.float32))
