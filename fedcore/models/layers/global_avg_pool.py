"""The mean of every channel: (C, *spatial) -> (C,)."""

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


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (sources[0][0],)


KIND = LayerKind(
    Op.GLOBAL_AVG_POOL,
    _shape,
    ranks=IMAGES,
    memory=Memory(Reads.NOTHING),
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=False,
)
