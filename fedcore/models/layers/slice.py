"""Some of the channels: ``out_channels`` of ``in_channels``, from ``start`` on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tinyfleet.fedcore.arrays import BoolArray
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
)
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    if sources[0][0] != node.in_channels:
        return f"it takes {node.in_channels} channels"
    if node.out_channels < 1 or not 0 <= node.start <= node.in_channels - node.out_channels:
        return f"{node.out_channels} channels from {node.start} on are not there"
    return ""


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (node.out_channels, *sources[0][1:])


def _flow(node: Node) -> Flow:
    return Flow.MOVED


def _places(node: Node, counts: Sequence[int]) -> Places:
    return [(0, channel) for channel in range(node.start, node.start + node.out_channels)]


def _shrunk(node: Node, kept: Sequence[BoolArray]) -> Node:
    left, stays = int(kept[0][: node.start].sum()), int(kept[0][node.start : node.start + node.out_channels].sum())
    return replace(node, in_channels=int(np.sum(kept[0])), out_channels=stays, start=left)


KIND = LayerKind(
    Op.SLICE,
    _shape,
    attributes=frozenset({"in_channels", "out_channels", "start"}),
    fault=_fault,
    memory=Memory(Reads.NOTHING),
    channels=Channels(_flow, places=_places, shrunk=_shrunk),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
