"""Hard sigmoid: min(max(x + 3, 0), 6) / 6, the gate of MobileNetV3."""

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
    return np.asarray(np.clip(sources[0] + 3.0, 0.0, 6.0) / 6.0)


KIND = LayerKind(
    Op.HARD_SIGMOID,
    same_shape,
    memory=Memory(Reads.INPUT),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=Linearised.DROPPED,
    selects=False,
    never_negative=True,
)
