"""Sigmoid: 1 / (1 + exp(-x))."""

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
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * sources[0]))


KIND = LayerKind(
    Op.SIGMOID,
    same_shape,
    memory=Memory(Reads.OUTPUT),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=Linearised.DROPPED,
    selects=False,
    never_negative=True,
)
