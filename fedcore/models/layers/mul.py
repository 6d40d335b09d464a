"""The product of two tensors of one shape, or of one and a number a channel (squeeze-and-excitation's gate)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    LayerKind,
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
    whole, factor = sources
    return "" if factor in (whole, whole[:1]) else f"it cannot multiply {whole} by {factor}"


def _constant(sources: Sequence[Numbers]) -> Numbers:
    left, right = sources
    return np.where((left == 0.0) | (right == 0.0), 0.0, left * right)


KIND = LayerKind(
    Op.MUL,
    same_shape,
    inputs=2,
    fault=_fault,
    memory=Memory(Reads.INPUTS),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=None,
    selects=False,
)
