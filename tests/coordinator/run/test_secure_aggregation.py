from __future__ import annotations

import pytest

from tinyfleet.coordinator.run.scheduler import create_method
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import FleetSettings, ModelSettings, RunSpec, SecureAggregationSettings


def test_a_live_run_that_asks_for_it_is_not_run_without_it():
    fleet = FleetSettings(norm_limit=0.0, min_results=3)
    spec = RunSpec(
        method={"name": "static"},
        model=ModelSettings("small_cnn", (1, 8, 8), 10),
        fleet=fleet,
        secure_aggregation=SecureAggregationSettings(True),
    )
    with pytest.raises(ConfigError, match="not wired into a live fleet"):
        create_method(spec)
