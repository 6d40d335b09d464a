"""Dropout: in training a share ``rate`` of the values is zero, the others make up for them; else nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Reads,
    Scaling,
    Shape,
    first,
    own,
    same_shape,
)
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    return "" if 0.0 <= node.rate < 1.0 else f"its rate {node.rate} is not from 0 to below 1"


KIND = LayerKind(
    Op.DROPOUT,
    same_shape,
    attributes=frozenset({"rate"}),
    fault=_fault,
    memory=Memory(Reads.NOTHING, scratch=2.25),  # factors, once more in another order, and a byte each
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    vanishes=True,
    linearised=Linearised.DROPPED,
    selects=True,
)
