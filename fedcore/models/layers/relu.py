"""ReLU, times ``gain``: the variance-preserving one where that is not 1."""

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
    return np.maximum(sources[0], 0.0)


KIND = LayerKind(
    Op.RELU,
    same_shape,
    attributes=frozenset({"gain"}),
    memory=Memory(Reads.SIGNS, in_place=True),
    channels=Channels(own, _constant),
    scaling=Scaling.PASSES,
    linearised=Linearised.DROPPED,
    selects=False,
    never_negative=True,
)
