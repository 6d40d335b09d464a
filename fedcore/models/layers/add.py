"""The sum of two tensors of one shape."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Numbers,
    Reads,
    Scaling,
    Shape,
    own,
    same_shape,
)
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    left, right = sources
    return "" if left == right else f"it cannot add {left} and {right}"


def _constant(sources: Sequence[Numbers]) -> Numbers:
    total: Numbers = sources[0] + sources[1]
    return total


KIND = LayerKind(
    Op.ADD,
    same_shape,
    inputs=2,
    fault=_fault,
    memory=Memory(Reads.NOTHING, overwritable=True, hands_on=True),
    channels=Channels(own, _constant),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=False,
)
