"""Leaky ReLU: negative values times ``SLOPE``."""

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

SLOPE = 0.01  # the one that the native engine has (Maas et al. 2013)


def _constant(sources: Sequence[Numbers]) -> Numbers:
    x = sources[0]
    return np.where(x < 0.0, SLOPE * x, x)


KIND = LayerKind(
    Op.LEAKY_RELU,
    same_shape,
    memory=Memory(Reads.INPUT),
    channels=Channels(own, _constant),
    scaling=Scaling.PASSES,
    linearised=Linearised.DROPPED,
    selects=False,
)
