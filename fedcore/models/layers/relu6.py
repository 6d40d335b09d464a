"""ReLU that stops at 6, times ``gain``."""

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

CEILING = 6.0


def _constant(sources: Sequence[Numbers]) -> Numbers:
    return np.clip(sources[0], 0.0, CEILING)


KIND = LayerKind(
    Op.RELU6,
    same_shape,
    attributes=frozenset({"gain"}),
    memory=Memory(Reads.SIGNS, in_place=True),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=Linearised.DROPPED,
    selects=False,
    never_negative=True,
)
