"""The mean of every window; what pads is not counted in it."""

from __future__ import annotations

from tinyfleet.fedcore.models.layers.kind import (
    IMAGES,
    Channels,
    LayerKind,
    Linearised,
    Memory,
    Reads,
    Scaling,
    first,
    own,
)
from tinyfleet.fedcore.models.layers.window import ATTRIBUTES, pool_fault, pool_shape
from tinyfleet.fedcore.models.node import Op

KIND = LayerKind(
    Op.AVG_POOL,
    pool_shape,
    ranks=IMAGES,
    attributes=ATTRIBUTES,
    fault=pool_fault,
    memory=Memory(Reads.INPUT),
    channels=Channels(own, first),
    scaling=Scaling.PASSES,
    linearised=Linearised.KEPT,
    selects=True,
)
