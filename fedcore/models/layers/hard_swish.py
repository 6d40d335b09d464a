"""Hard swish: x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, MobileNetV3, section 5.2)."""

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
    x = sources[0]
    return np.asarray(x * np.clip(x + 3.0, 0.0, 6.0) / 6.0)


KIND = LayerKind(
    Op.HARD_SWISH,
    same_shape,
    memory=Memory(Reads.INPUT),
    channels=Channels(own, _constant),
    scaling=Scaling.FIXED,
    linearised=Linearised.DROPPED,
    selects=False,
)
