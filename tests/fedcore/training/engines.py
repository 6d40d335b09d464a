"""Both engines for tests of the seam: each runs wherever its library is installed."""

from __future__ import annotations

import importlib.util

import pytest

from tinyfleet.fedcore.training.registry import create, native_fault

MISSING = {
    "native": f"sparse_engine {native_fault()}" if native_fault() else "",
    "torch": "" if importlib.util.find_spec("torch") else "torch is not installed",
}
NAMES = ["torch", "native"]


def new_engine(name: str, threads: int = 1):
    """The engine, or a skipped test."""
    if MISSING[name]:
        pytest.skip(MISSING[name])
    return create(name, threads)
