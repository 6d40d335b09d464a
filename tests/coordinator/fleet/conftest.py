"""An authority in an empty directory, under a clock that tests set."""

from __future__ import annotations

import pytest

from tinyfleet.coordinator.fleet.authority import Authority


class Clock:
    def __init__(self):
        self.now = 1.8e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.make(tmp_path / "ca", clock)
