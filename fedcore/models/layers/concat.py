"""Tensors behind one another along the channels."""

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
)
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    fits = all(shape[1:] == sources[0][1:] for shape in sources)
    return "" if fits else "only their channels may differ in number"


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (sum(shape[0] for shape in sources), *sources[0][1:])


def _flow(node: Node) -> Flow:
    return Flow.MOVED


def _places(node: Node, counts: Sequence[int]) -> Places:
    return [(source, channel) for source, count in enumerate(counts) for channel in range(count)]


KIND = LayerKind(
    Op.CONCAT,
    _shape,
    inputs=None,
    fault=_fault,
    memory=Memory(Reads.NOTHING),
    channels=Channels(_flow, places=_places),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=False,
)
