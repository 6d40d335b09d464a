"""Sensors on a fake root, and on the machine that runs the tests."""

from __future__ import annotations

import pytest

from device_profiles.sensors import SENSORS, read_health


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="ascii")


THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def test_a_raspberry_pi(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal: 500000 kB\nMemFree: 1 kB\nMemAvailable:  300000 kB\n")
    put(tmp_path, "proc/loadavg", "1.25 0.90 0.40 2/345 6789\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "61000\n")
    put(tmp_path, THROTTLED, "50005\n")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "cpu_thermal\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    put(tmp_path, "sys/class/power_supply/BAT0/capacity", "83\n")
    put(tmp_path, "sys/class/power_supply/BAT1/capacity", "41\n")
    found = read_health(tmp_path)
    assert found.pop("free_disk_bytes") > 0
    assert found == {
        "free_memory_bytes": 300_000 * 1024,
        "load_1m": 1.25,
        "temperature_c": 61.0,
        "battery_percent": 41.0,
        "throttled_bits": 0x50005,
        "under_voltage": 1.0,
    }


def test_free_memory_is_what_the_container_leaves(tmp_path):
    put(tmp_path, "proc/meminfo", "MemAvailable: 4000000 kB\n")
    put(tmp_path, "proc/self/cgroup", "0::/box\n")
    put(tmp_path, "sys/fs/cgroup/box/memory.max", "200000000\n")
    put(tmp_path, "sys/fs/cgroup/box/memory.current", "50000000\n")
    assert read_health(tmp_path)["free_memory_bytes"] == 150_000_000


def test_the_newer_path_of_the_firmware_s_bits(tmp_path):
    put(tmp_path, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0\n")
    assert read_health(tmp_path)["throttled_bits"] == 0.0


def test_what_a_board_lacks_is_left_out(tmp_path):
    assert set(read_health(tmp_path)) == {"free_memory_bytes", "free_disk_bytes"}


def test_a_zone_that_cannot_be_read_hides_no_other(tmp_path):
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "\n")
    (tmp_path / "sys/class/thermal/thermal_zone1/temp").mkdir(parents=True)
    put(tmp_path, "sys/class/thermal/thermal_zone2/temp", "-5000\n")
    assert read_health(tmp_path)["temperature_c"] == -5.0


@pytest.mark.parametrize("content", ["", "zz", "0xg"])
def test_a_sensor_that_fails_stops_no_other(tmp_path, content):
    put(tmp_path, THROTTLED, content)
    put(tmp_path, "proc/loadavg", "nothing")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "rpi_volt\n")  # and no alarm file
    put(tmp_path, "sys/class/power_supply/BAT0/capacity", "7\n")
    found = read_health(tmp_path, tmp_path / "no such disk")
    assert set(found) == {"free_memory_bytes", "battery_percent"}


def test_sensors_are_a_table_that_takes_more(tmp_path):
    def fan_rpm(root, disk):
        return 1200.0

    def broken(root, disk):
        raise RuntimeError("a driver's bug")

    found = read_health(tmp_path, sensors={**SENSORS, "broken": broken, "fan_rpm": fan_rpm})
    assert found["fan_rpm"] == 1200.0
    assert "broken" not in found


def test_this_machine():
    found = read_health()
    assert found["free_memory_bytes"] > 1_000_000
    assert found["free_disk_bytes"] > 0
    assert found["load_1m"] >= 0
