"""What the parts of the running service share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.fleet.registry import Registry
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.coordinator.wire.transfers import Downloads, OfferedBlobs


@dataclass(frozen=True, slots=True)
class Context:
    """The disk, the devices, the wire and the clock (monotonic seconds)."""

    config: CoordinatorConfig
    store: Store
    outgoing: Outgoing
    registry: Registry
    offered: OfferedBlobs
    downloads: Downloads
    clock: Callable[[], float]
