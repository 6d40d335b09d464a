"""Convolution, 1-D or 2-D by its kernel; depthwise where groups == in_channels; its weights may be normalised."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tinyfleet.fedcore.models.layers.kind import (
    IMAGES,
    Channels,
    Flow,
    LayerKind,
    Linearised,
    Memory,
    Pruned,
    Reads,
    Scaling,
    Shape,
)
from tinyfleet.fedcore.models.layers.window import ATTRIBUTES, window_fault, window_shape
from tinyfleet.fedcore.models.node import Node, Op
from tinyfleet.fedcore.models.params import ParamSpec, Role


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    channels = sources[0][0]
    if channels != node.in_channels or node.out_channels < 1:
        return f"it takes {node.in_channels} channels and gives {node.out_channels}"
    if node.groups < 1 or node.in_channels % node.groups or node.out_channels % node.groups:
        return f"{node.groups} groups do not divide its {node.in_channels} and {node.out_channels} channels"
    return window_fault(node, sources)


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (node.out_channels, *window_shape(node, sources))


def _params(node: Node) -> Mapping[str, ParamSpec]:
    fan_out = node.out_channels * math.prod(node.kernel)  # He et al. 2015
    shape = (node.out_channels, node.in_channels // node.groups, *node.kernel)
    params = {"weight": ParamSpec(shape, Role.WEIGHT, spread=math.sqrt(2.0 / fan_out))}
    if node.weight_norm:
        params["gain"] = ParamSpec((node.out_channels,), Role.GAIN, start=node.gain)
    if node.bias:
        params["bias"] = ParamSpec((node.out_channels,), Role.BIAS)
    return params


def _uses(node: Node, source: Shape, output: Shape) -> int:
    return math.prod(output[1:])


def _flow(node: Node) -> Flow:
    if node.groups == 1:
        return Flow.MIXED
    return Flow.OWN if node.groups == node.in_channels == node.out_channels else Flow.WHOLE


KIND = LayerKind(
    Op.CONV,
    _shape,
    ranks=IMAGES,
    attributes=ATTRIBUTES | {"dilation", "in_channels", "out_channels", "groups", "bias", "weight_norm", "gain"},
    fault=_fault,
    params=_params,
    uses=_uses,
    memory=Memory(Reads.INPUT, Pruned.WITH_WEIGHTS, overwritable=True),
    channels=Channels(_flow),
    scaling=Scaling.ABSORBED,
    linearised=Linearised.KEPT,
    selects=False,
)
