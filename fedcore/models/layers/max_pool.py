"""The largest value of every window; what pads is smaller than any."""

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
from tinyfleet.fedcore.models.layers.window import ATTRIBUTES, window_fault, window_shape
from tinyfleet.fedcore.models.node import Node, Op


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    fault = window_fault(node, sources)
    if not fault and any(2 * p > k for p, k in zip(node.padding, node.kernel, strict=True)):
        return f"padding {node.padding} is more than half of its kernel {node.kernel}: windows would be empty"
    return fault


def _shape(node: Node, sources: Sequence[Shape]) -> Shape:
    return (sources[0][0], *window_shape(node, sources))


KIND = LayerKind(
    Op.MAX_POOL,
    _shape,
    ranks=IMAGES,
    attributes=ATTRIBUTES,
    fault=_fault,
    memory=Memory(Reads.INPUT, indices=True),
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
