"""Which devices take part in a step."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from coordinator.rows import DeviceRow


class Selection(Protocol):
    """Picks a cohort from ``candidates``: accepted devices that are online and not busy."""

    def __call__(self, candidates: Sequence[DeviceRow], *, size: int, seed: int, step: int) -> tuple[str, ...]:
        """At most ``size`` device names (0: as many as there are), in a stable order."""


def random_cohort(candidates: Sequence[DeviceRow], *, size: int, seed: int, step: int) -> tuple[str, ...]:
    """A uniform random cohort: ``draw`` among all candidates."""
    return draw([row.device for row in candidates], size=size, seed=seed, step=step)


def draw(names: Sequence[str], *, size: int, seed: int, step: int) -> tuple[str, ...]:
    """``size`` of ``names`` (0: all), sorted, depending on nothing but (seed, step) and the names.

    The names with the lowest hashes win, so a candidate more or less changes the cohort by one
    device at most, and no library's random stream matters.
    """
    chosen = sorted(names)
    if size and size < len(chosen):
        chosen = sorted(chosen, key=lambda name: hashlib.sha256(f"{seed}/{step}/{name}".encode()).digest())[:size]
    return tuple(sorted(chosen))
