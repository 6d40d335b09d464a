"""``tinyfleet profile sensors`` on a fake tree."""

from __future__ import annotations

import json

from tests.device_profiles.sensors.trees import raspberry_pi


def test_a_table(tinyfleet, tmp_path):
    ran = tinyfleet("profile", "sensors", "--root", raspberry_pi(tmp_path), "--disk", tmp_path)
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["temperature", "ok", "61", "°C", "cpu-thermal"] in lines
    assert ["clock_cap", "warning", "60", "%", "600", "of", "1000", "MHz"] in lines


def test_json_without_one(tinyfleet, tmp_path):
    ran = tinyfleet("profile", "sensors", "--root", raspberry_pi(tmp_path), "--disable", "battery", "--json")
    found = {reading["name"]: reading for reading in json.loads(ran.out)}
    assert found["under_voltage"]["state"] == "critical"
    assert found["swap"] == {
        "name": "swap",
        "value": 10.0,
        "unit": "%",
        "state": "ok",
        "note": "10 of 102 MB",
    }
    assert "battery" not in found


def test_an_unknown_name(tinyfleet, tmp_path):
    ran = tinyfleet("profile", "sensors", "--root", tmp_path, "--disable", "batery")
    assert (ran.code, "did you mean 'battery'" in ran.err) == (2, True)
