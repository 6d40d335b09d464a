"""Every value as often as ``kernel`` says in each dimension: nearest neighbours by whole factors."""

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


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    dimensions = len(sources[0]) - 1
    if len(node.kernel) != dimensions or min(node.kernel) < 1:
        return f"its kernel needs {dimensions} factors above 0"
    return ""


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (sources[0][0], *(size * k for size, k in zip(sources[0][1:], node.kernel, strict=True)))


KIND = LayerKind(
    Op.UPSAMPLE,
    _shape,
    ranks=IMAGES,
    attributes=frozenset({"kernel"}),
    fault=_fault,
    memory=Memory(Reads.NOTHING),
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
