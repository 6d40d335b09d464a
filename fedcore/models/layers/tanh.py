"""Hyperbolic tangent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyfleet.fedcore.models.layers.kind import (
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Numbers,
    Reads,
    Scaling,
    own,
    same_shape,
)
from tinyfleet.fedcore.models.node import Op


def _constant(sources: Sequence[Numbers]) -> Numbers:
    return np.tanh(sources[0])


KIND = LayerKind(
    Op.TANH,
    same_shape,
    memory=Memory(Reads.OUTPUT),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=Linearised.DROPPED,
    selects=False,
)
