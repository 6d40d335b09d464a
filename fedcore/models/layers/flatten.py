"""(C, *spatial) -> (C * prod(spatial),), a channel's values side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    Flow,
    LayerKind,
    Linearised,
    Memory,
    Reads,
    Scaling,
    Shape,
    first,
)
from tinyfleet.fedcore.models.node import Node, Op


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (math.prod(sources[0]),)


def _flow(node: Node) -> Flow:
    return Flow.FLAT


KIND = LayerKind(
    Op.FLATTEN,
    _shape,
    memory=Memory(Reads.NOTHING, view=True, hands_on=True),
    channels=Channels(_flow, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
