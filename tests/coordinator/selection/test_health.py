"""Health from heartbeats."""

from __future__ import annotations

import pytest

from tinyfleet.coordinator.selection.health import critical, warnings


@pytest.mark.parametrize("health", [{}, {"rss_bytes": 2e7}, {"temperature_c": 60.0, "throttled_bits": 0x50000}])
def test_nothing_is_wrong(health):
    assert critical(health) == ""
    assert warnings(health) == []


@pytest.mark.parametrize(
    ("health", "word"),
    [
        ({"temperature_c": 86.0}, "86 °C, the limit 85"),
        ({"battery_percent": 4.0}, "battery is at 4 %"),
        ({"free_memory_bytes": 5e6}, "5 MB of memory"),
        ({"free_disk_bytes": 5e6}, "5 MB of disk"),
        ({"throttled_bits": 4.0}, "throttles"),
        ({"throttled_bits": 1.0}, "voltage"),
        ({"under_voltage": 1.0}, "voltage"),
    ],
)
def test_what_spares_a_device(health, word):
    assert word in critical(health)
    assert word in warnings(health)[0]


@pytest.mark.parametrize("health", [{"temperature_c": 80.0}, {"battery_percent": 20.0}, {"throttled_bits": 2.0}])
def test_a_warning_spares_nobody(health):
    assert critical(health) == ""
    assert len(warnings(health)) == 1
