"""What the parts of the running service share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.fleet.registry import Registry
from tinyfleet.coordinator.store.ledger import Ledger
from tinyfleet.coordinator.wire.outgoing import Post
from tinyfleet.coordinator.wire.transfers import Downloads, Uploads


@dataclass(frozen=True, slots=True)
class Context:
    """The disk, the devices, the wire and the clock (monotonic seconds)."""

    config: CoordinatorConfig
    ledger: Ledger
    post: Post
    registry: Registry
    uploads: Uploads
    downloads: Downloads
    clock: Callable[[], float]
