"""What the coordinator's tests share."""

from __future__ import annotations

import pytest

from tests.coordinator.toy_fleet import Fleet


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.service.close()
