"""What the parts of the running service share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.config import CoordinatorConfig
from coordinator.ledger import Ledger
from coordinator.post import Post
from coordinator.registry import Registry
from coordinator.transfers import Downloads, Uploads


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
