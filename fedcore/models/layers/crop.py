"""The inside of an image: without as much before and behind as ``padding`` says, in that order."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import (
    IMAGES,
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Reads,
    Scaling,
    Shape,
    first,
    own,
)
from tinyfleet.fedcore.models.node import Node, Op


def cuts(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, behind), a number a dimension each."""
    dimensions = len(node.padding) // 2
    return node.padding[:dimensions], node.padding[dimensions:]


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    dimensions = len(sources[0]) - 1
    if len(node.padding) != 2 * dimensions or min(node.padding) < 0:
        return f"what it cuts off needs {2 * dimensions} numbers, none below 0"
    return "" if min(_shape(node, sources)) > 0 else f"it cuts off {node.padding}: nothing is left"


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    sizes = zip(sources[0][1:], *cuts(node), strict=True)
    return (sources[0][0], *(size - before - behind for size, before, behind in sizes))


KIND = LayerKind(
    Op.CROP,
    _shape,
    ranks=IMAGES,
    attributes=frozenset({"padding"}),
    fault=_fault,
    memory=Memory(Reads.NOTHING),
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
