"""Linear layer over a vector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tinyfleet.fedcore.models.layers.kind import (
    VECTOR,
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
from tinyfleet.fedcore.models.node import Node, Op
from tinyfleet.fedcore.models.params import ParamSpec, Role


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    if sources[0] != (node.in_channels,) or node.out_channels < 1:
        return f"it takes {node.in_channels} values and gives {node.out_channels}"
    return ""


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (node.out_channels,)


def _params(node: Node) -> Mapping[str, ParamSpec]:
    spread = math.sqrt(2.0 / node.in_channels)
    params = {"weight": ParamSpec((node.out_channels, node.in_channels), Role.WEIGHT, spread=spread)}
    if node.bias:
        params["bias"] = ParamSpec((node.out_channels,), Role.BIAS)
    return params


def _uses(node: Node, source: Shape, output: Shape) -> int:
    return 1


def _flow(node: Node) -> Flow:
    return Flow.MIXED


KIND = LayerKind(
    Op.LINEAR,
    _shape,
    ranks=VECTOR,
    attributes=frozenset({"in_channels", "out_channels", "bias"}),
    fault=_fault,
    params=_params,
    uses=_uses,
    memory=Memory(Reads.INPUT, Pruned.WITH_WEIGHTS, overwritable=True),
    channels=Channels(_flow),
    scaling=Scaling.ABSORBED,
    linearised=Linearised.KEPT,
    selects=False,
)
