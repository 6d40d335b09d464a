"""All sensors together: found by name, left out by name, and none that fails stops another."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.device_profiles.sensors.trees import BATTERY, HWMON, THROTTLED, ZONE, put, raspberry_pi
from tinyfleet.device_profiles.sensors import checks
from tinyfleet.device_profiles.sensors.read import UnknownSensor, load, names, ours, read_all, read_health
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, State, shown

FOLDER = Path(checks.__file__).parent


@pytest.fixture
def another(tmp_path, monkeypatch):
    """Put one more module beside the shipped sensors."""
    folder = tmp_path / "more checks"
    folder.mkdir()
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(folder)])

    def add(name, source):
        (folder / f"{name}.py").write_text(source, encoding="utf-8")
        ours.cache_clear()

    yield add
    ours.cache_clear()
    for name in [name for name in sys.modules if name.startswith(f"{checks.__name__}.extra")]:
        del sys.modules[name]
        delattr(checks, name.rpartition(".")[2])


def test_every_module_is_a_sensor_of_its_own_name():
    assert set(names()) == {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert len(names()) >= 10
    for name in names():
        assert load(name).name == name
    figures = [load(name).figure for name in names() if load(name).figure]
    assert len(figures) == len(set(figures))


def test_readings_are_called_as_their_sensors(tmp_path):
    found = [reading.name for reading in read_all(raspberry_pi(tmp_path))]
    assert found == [name for name in names() if name != "power_mode"]


def test_a_new_file_is_found(tmp_path, another):
    another(
        "extra_fan",
        "from tinyfleet.device_profiles.sensors.sensor import Reading, Sensor\n"
        "def read(root, options):\n    return Reading('extra_fan', 1200.0, 'rpm')\n"
        "SENSOR = Sensor('extra_fan', read, figure='fan_rpm')\n",
    )
    assert Reading("extra_fan", 1200.0, "rpm") in read_all(tmp_path)
    assert read_health(tmp_path)["fan_rpm"] == 1200.0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('a driver is missing')", "RuntimeError: a driver is missing"),
        ("import no_such_library", "ModuleNotFoundError"),
        ("SENSOR = 3", "give a Sensor called 'extra'"),
        ("", "AttributeError"),
        ("from tinyfleet.device_profiles.sensors.checks.load import SENSOR", "give a Sensor called 'extra'"),
        (
            "from tinyfleet.device_profiles.sensors.sensor import Reading, Sensor\n"
            "SENSOR = Sensor('extra', lambda root, options: Reading('extra', float('nan')), 'extra')",
            "nan is not a number",
        ),
    ],
)
def test_a_broken_sensor_is_unknown_and_stops_no_other(tmp_path, another, source, words):
    another("extra", source)
    found = {reading.name: reading for reading in read_all(tmp_path)}
    assert (found["extra"].value, found["extra"].state) == (None, State.UNKNOWN)
    assert words in found["extra"].note
    assert found["disk"].value is not None
    assert "extra" not in read_health(tmp_path)


def test_a_sensor_that_is_left_out_is_not_even_imported(tmp_path, another):
    another("extra", "raise RuntimeError")
    found = {reading.name for reading in read_all(raspberry_pi(tmp_path), disabled=("extra", "temperature"))}
    assert "temperature" not in found
    assert {"throttling", "battery"} <= found
    assert f"{checks.__name__}.extra" not in sys.modules
    assert "temperature_c" not in read_health(tmp_path, disabled=["temperature"])


def test_an_unknown_name_tells_the_nearest(tmp_path):
    with pytest.raises(UnknownSensor, match=r"'tempertaure' is unknown; did you mean 'temperature'"):
        read_all(tmp_path, disabled=["tempertaure"])
    with pytest.raises(UnknownSensor, match="choose from battery, clock_cap"):
        read_health(tmp_path, disabled=["xyz"])


@pytest.mark.parametrize(
    "values",
    [
        {"temperature_warning_c": 90.0},
        {"temperature_critical_c": float("nan")},
        {"battery_warning_percent": 5.0},
        {"disk_critical_bytes": 2_000_000_000},
        {"memory_warning_bytes": 0},
    ],
)
def test_a_warning_comes_before_the_critical_state(values):
    with pytest.raises(ValueError, match="give a warning that comes first"):
        Options(**values)


# -- what a heartbeat tells --------------------------------------------------------------


def test_health_of_a_raspberry_pi(tmp_path):
    found = read_health(raspberry_pi(tmp_path))
    assert found.pop("free_disk_bytes") > 0
    assert found == {
        "free_memory_bytes": 300_000 * 1024,
        "load_1m": 1.25,
        "temperature_c": 61.0,
        "battery_percent": 41.0,
        "throttled_bits": 0x50005,
        "under_voltage": 1.0,
    }


def test_what_a_board_lacks_is_left_out(tmp_path):
    assert set(read_health(tmp_path)) == {"free_memory_bytes", "free_disk_bytes"}
    assert [reading.name for reading in read_all(tmp_path)] == ["disk", "memory"]


@pytest.mark.parametrize("content", ["", "zz", "0xg", b"\xff\xfe"])
def test_what_cannot_be_read_is_left_out(tmp_path, content):
    put(tmp_path, THROTTLED, content)
    put(tmp_path, "proc/loadavg", "nothing")
    put(tmp_path, f"{ZONE.format(0)}/temp", content)
    put(tmp_path, f"{HWMON.format(0)}/name", "rpi_volt\n")  # and no alarm file
    put(tmp_path, f"{BATTERY.format('BAT0')}/capacity", "7\n")
    options = Options(disk=tmp_path / "no such disk")
    assert set(read_health(tmp_path, options=options)) == {"free_memory_bytes", "battery_percent"}
    unknown = {one.name for one in read_all(tmp_path, options=options) if one.state is State.UNKNOWN}
    assert unknown == {"throttling", "load", "temperature", "under_voltage", "disk"}


def test_a_heartbeat_reads_no_sensor_that_it_does_not_tell(tmp_path, another):
    another(
        "extra_slow",
        "from tinyfleet.device_profiles.sensors.sensor import Reading, Sensor\n"
        "def read(root, options):\n"
        "    (root / 'was read').touch()\n"
        "    return Reading('extra_slow', 1.0)\n"
        "SENSOR = Sensor('extra_slow', read)\n",
    )
    assert "free_memory_bytes" in read_health(tmp_path)
    assert not (tmp_path / "was read").exists()
    assert Reading("extra_slow", 1.0) in read_all(tmp_path)
    assert (tmp_path / "was read").exists()


def test_a_heartbeat_starts_no_tool(tmp_path):
    tool = put(tmp_path, "usr/bin/vcgencmd", f"#!/bin/sh\ntouch '{tmp_path}/started'\necho throttled=0x0\n")
    tool.chmod(0o755)
    assert "throttled_bits" not in read_health(tmp_path)
    assert not (tmp_path / "started").exists()
    assert "throttling" in {reading.name for reading in read_all(tmp_path)}
    assert (tmp_path / "started").exists()


def test_this_machine():
    found = read_health()
    assert found["free_memory_bytes"] > 1_000_000
    assert found["free_disk_bytes"] > 0
    assert found["load_1m"] >= 0


def test_values_as_a_person_reads_them():
    assert shown(Reading("a", 61.0, "°C")) == "61 °C"
    assert shown(Reading("a", 2_500_000_000.0, "bytes")) == "2500 MB"
    assert shown(Reading("a", 327685.0)) == "327685"
    assert shown(Reading("a", 55.5556, "%")) == "55.56 %"
    assert shown(Reading("a", None, "%")) == ""
