"""Softmax over the channels, for models that train through it; a classifier's own is part of its loss."""

from __future__ import annotations

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    Flow,
    LayerKind,
    Memory,
    Reads,
    Scaling,
    same_shape,
)
from tinyfleet.fedcore.models.node import Node, Op


def _flow(node: Node) -> Flow:
    return Flow.WHOLE  # every channel has a share in every other


KIND = LayerKind(
    Op.SOFTMAX,
    same_shape,
    memory=Memory(Reads.OUTPUT),
    channels=Channels(_flow),
    scaling=Scaling.FIXED,
    linearised=None,
    selects=False,
    never_negative=True,
)
