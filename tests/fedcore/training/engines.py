"""Both engines for tests of the seam: each runs wherever its library is installed."""

from __future__ import annotations

import pytest

from tinyfleet.fedcore.training.registry import ENGINES, create

MISSING = {
    facts.name: f"{facts.name} {facts.fault()}" if facts.fault() else "" for facts in ENGINES if facts.automatic
}
NAMES = ["torch", "native"]


def new_engine(name: str, threads: int = 1):
    """The engine, or a skipped test."""
    if MISSING[name]:
        pytest.skip(MISSING[name])
    return create(name, threads)
