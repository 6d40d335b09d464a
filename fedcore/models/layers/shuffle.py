"""Channels of ``groups`` groups dealt out in turn: the j-th of i becomes the i-th of j (ShuffleNet, fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    Flow,
    LayerKind,
    Linearised,
    Memory,
    Places,
    Reads,
    Scaling,
    Shape,
    same_shape,
)
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    divides = node.groups > 0 and sources[0][0] % node.groups == 0
    return "" if divides else f"{node.groups} groups do not divide its {sources[0][0]} channels"


def _flow(node: Node) -> Flow:
    return Flow.MOVED


def _places(node: Node, counts: Sequence[int]) -> Places:
    each = counts[0] // node.groups
    return [(0, group * each + place) for place in range(each) for group in range(node.groups)]


def _ties(node: Node, count: int) -> Sequence[Sequence[int]]:
    # One of each group, so that groups stay of one size.
    return [range(first, first + node.groups) for first in range(0, count, node.groups)]


KIND = LayerKind(
    Op.SHUFFLE,
    same_shape,
    attributes=frozenset({"groups"}),
    fault=_fault,
    memory=Memory(Reads.NOTHING),
    channels=Channels(_flow, places=_places, ties=_ties),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
