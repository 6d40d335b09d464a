"""Each check on fake trees: there, not there, in each of its states, and filled with rubbish."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.device_profiles.sensors.trees import BATTERY, HWMON, POLICY, THROTTLED, ZONE, put, raspberry_pi
from tinyfleet.device_profiles.sensors.read import load, read_all
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, State

MODE = "var/lib/nvpmodel/status"
# A file of each check: a directory, or rubbish, in its place makes the reading unknown.
FILES = {
    "temperature": f"{ZONE.format(0)}/temp",
    "throttling": THROTTLED,
    "clock_cap": f"{POLICY.format(0)}/scaling_max_freq",
    "power_mode": MODE,
    "battery": f"{BATTERY.format('BAT0')}/capacity",
    "swap": "proc/meminfo",
    "load": "proc/loadavg",
}


def reading(root, name, **options) -> Reading | None:
    """What one sensor says, as ``read_all`` tells it; None: this board has none."""
    return next((one for one in read_all(root, options=Options(**options)) if one.name == name), None)


@pytest.mark.parametrize("name", [*FILES, "under_voltage"])
def test_a_board_without_it(tmp_path, name):
    assert load(name).read(tmp_path, Options()) is None


@pytest.mark.parametrize(("name", "path"), FILES.items())
def test_a_directory_in_its_place(tmp_path, name, path):
    (tmp_path / path).mkdir(parents=True)
    found = reading(tmp_path, name)
    assert (found.value, found.state) == (None, State.UNKNOWN)
    assert found.note.startswith("IsADirectoryError")


@pytest.mark.parametrize(("name", "path"), FILES.items())
@pytest.mark.parametrize("content", ["SwapTotal: many kB\n", b"SwapTotal: \xff\x00\xfe"])
def test_rubbish(tmp_path, name, path, content):
    put(tmp_path, path, content)
    found = reading(tmp_path, name)
    assert (found.value, found.state) == (None, State.UNKNOWN)
    assert found.note


@pytest.mark.parametrize(("name", "path"), FILES.items())
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name, path):
    put(raspberry_pi(tmp_path), path, "5\n")
    real = Path.read_text

    def refuse(self, *arguments, **keywords):
        if self == tmp_path / path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", refuse)
    found = reading(tmp_path, name)
    if name in ("temperature", "battery"):  # another zone, another battery tells
        assert found.value in (61.0, 41.0)
    else:
        assert found.state is State.UNKNOWN
        assert "PermissionError" in found.note


@pytest.mark.parametrize(
    ("millidegrees", "state"), [("74999", "ok"), ("75000", "warning"), ("85000", "critical"), ("-5000", "ok")]
)
def test_temperature(tmp_path, millidegrees, state):
    put(tmp_path, f"{ZONE.format(0)}/temp", "-20000\n")
    put(tmp_path, f"{ZONE.format(1)}/temp", f"{millidegrees}\n")
    put(tmp_path, f"{ZONE.format(1)}/type", "cpu-thermal\n")
    put(tmp_path, f"{ZONE.format(2)}/temp", "100000\n")
    put(tmp_path, f"{ZONE.format(2)}/type", "PMIC-Die\n")
    put(tmp_path, f"{ZONE.format(3)}/temp", "\n")
    assert reading(tmp_path, "temperature") == Reading(
        "temperature", int(millidegrees) / 1000, "°C", State(state), "cpu-thermal"
    )


def test_temperature_of_a_board_that_may_get_hotter(tmp_path):
    put(tmp_path, f"{ZONE.format(0)}/temp", "88000\n")
    found = reading(tmp_path, "temperature", temperature_warning_c=90.0, temperature_critical_c=99.0)
    assert (found.state, found.note) == (State.OK, "thermal_zone0")


@pytest.mark.parametrize(
    ("bits", "state", "note"),
    [
        ("0", "ok", ""),
        ("50005", "critical", "now: under-voltage, throttled; since boot: under-voltage, throttled"),
        ("8", "warning", "now: soft temperature limit"),
        ("a0002", "warning", "now: clock capped; since boot: clock capped, soft temperature limit"),
        ("10000", "warning", "since boot: under-voltage"),
        ("80000000", "ok", ""),
    ],
)
def test_throttling(tmp_path, bits, state, note):
    put(tmp_path, THROTTLED, f"{bits}\n")
    assert reading(tmp_path, "throttling") == Reading(
        "throttling", float(int(bits, 16)), "bits", State(state), note
    )


def test_the_newer_path_of_the_firmware_s_bits(tmp_path):
    put(tmp_path, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "0\n")
    assert reading(tmp_path, "throttling").value == 0.0


@pytest.mark.parametrize("folder", ["usr/bin", "opt/vc/bin"])
def test_the_firmware_s_tool_where_there_is_no_file(tmp_path, folder):
    put(tmp_path, f"{folder}/vcgencmd", '#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x20002\n').chmod(
        0o755
    )
    assert reading(tmp_path, "throttling").value == 0x20002
    assert reading(tmp_path, "throttling", tools=False) is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho VCHI initialization failed\nexit 255\n", "CalledProcessError"),
        ("#!/bin/sh\necho error=1\n", "ValueError"),
        ("#!/bin/sh\nexec sleep 30\n", "TimeoutExpired"),
        ("#!/no/such/shell\n", "FileNotFoundError"),
    ],
)
def test_the_firmware_s_tool_fails(tmp_path, monkeypatch, script, words):
    monkeypatch.setattr("tinyfleet.device_profiles.sensors.checks.throttling._TOOL_TIMEOUT_S", 0.3)
    put(tmp_path, "usr/bin/vcgencmd", script).chmod(0o755)
    found = reading(tmp_path, "throttling")
    assert found.state is State.UNKNOWN
    assert words in found.note


@pytest.mark.parametrize(
    "place", ["sys/devices/system/cpu/cpufreq/policy{}", "sys/devices/system/cpu/cpu{}/cpufreq"]
)
def test_clock_cap(tmp_path, place):
    for group, (allowed, full) in enumerate([(1800000, 1800000), (1500000, 2400000)]):
        put(tmp_path, f"{place.format(group)}/scaling_max_freq", f"{allowed}\n")
        put(tmp_path, f"{place.format(group)}/cpuinfo_max_freq", f"{full}\n")
    assert reading(tmp_path, "clock_cap") == Reading("clock_cap", 62.5, "%", State.WARNING, "1500 of 2400 MHz")
    put(tmp_path, f"{place.format(1)}/scaling_max_freq", "2400000\n")
    found = reading(tmp_path, "clock_cap")
    assert (found.value, found.state) == (100.0, State.OK)


def test_clock_cap_without_the_full_clock(tmp_path):
    put(tmp_path, f"{POLICY.format(0)}/scaling_max_freq", "1000\n")
    assert reading(tmp_path, "clock_cap").state is State.UNKNOWN
    put(tmp_path, f"{POLICY.format(0)}/cpuinfo_max_freq", "0\n")
    assert reading(tmp_path, "clock_cap").note.startswith("ZeroDivisionError")


def test_power_mode(tmp_path):
    put(tmp_path, MODE, "pmode:0001 fmode:quiet")
    assert reading(tmp_path, "power_mode") == Reading("power_mode", 1.0)
    put(tmp_path, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=5W >\n")
    assert reading(tmp_path, "power_mode").note == "5W"
    put(tmp_path, MODE, "pmode:0007")
    assert reading(tmp_path, "power_mode") == Reading("power_mode", 7.0)


def test_under_voltage(tmp_path):
    put(tmp_path, f"{HWMON.format(0)}/name", "cpu_thermal\n")
    (tmp_path / HWMON.format(1) / "name").mkdir(parents=True)
    assert reading(tmp_path, "under_voltage") is None
    put(tmp_path, f"{HWMON.format(2)}/name", "rpi_volt\n")
    assert reading(tmp_path, "under_voltage").state is State.UNKNOWN
    alarm = put(tmp_path, f"{HWMON.format(2)}/in0_lcrit_alarm", "0\n")
    assert reading(tmp_path, "under_voltage") == Reading("under_voltage", 0.0)
    alarm.write_text("1\n", encoding="ascii")
    found = reading(tmp_path, "under_voltage")
    assert (found.value, found.state) == (1.0, State.CRITICAL)
    alarm.write_text("on\n", encoding="ascii")
    assert "'on'" in reading(tmp_path, "under_voltage").note


@pytest.mark.parametrize(
    ("percent", "status", "state"),
    [
        (30, "Discharging", "ok"),
        (29, "Discharging", "warning"),
        (9, "Discharging", "critical"),
        (9, "Charging", "ok"),
        (9, "Full", "ok"),
        (9, "Not charging", "critical"),
        (9, None, "critical"),
    ],
)
def test_battery(tmp_path, percent, status, state):
    put(tmp_path, f"{BATTERY.format('BAT0')}/capacity", "95\n")
    put(tmp_path, f"{BATTERY.format('mouse')}/capacity", "1\n")
    put(tmp_path, f"{BATTERY.format('mouse')}/scope", "Device\n")
    put(tmp_path, f"{BATTERY.format('AC')}/online", "1\n")
    put(tmp_path, f"{BATTERY.format('BAT1')}/capacity", f"{percent}\n")
    if status is not None:
        put(tmp_path, f"{BATTERY.format('BAT1')}/status", f"{status}\n")
    note = f"BAT1 {(status or 'unknown').lower()}"
    assert reading(tmp_path, "battery") == Reading("battery", float(percent), "%", State(state), note)


@pytest.mark.parametrize(("free", "state"), [(100000, "ok"), (50001, "ok"), (50000, "warning"), (0, "warning")])
def test_swap(tmp_path, free, state):
    put(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nSwapCached: 5 kB\nSwapTotal: 100000 kB\nSwapFree: {free} kB\n")
    found = reading(tmp_path, "swap")
    assert found.value == pytest.approx(100 - free / 1000)
    assert found.state == state
    assert found.note.endswith("of 102 MB")


@pytest.mark.parametrize("meminfo", ["MemTotal: 5 kB\n", "SwapTotal: 0 kB\nSwapFree: 0 kB\n", ""])
def test_a_board_that_does_not_swap(tmp_path, meminfo):
    put(tmp_path, "proc/meminfo", meminfo)
    assert reading(tmp_path, "swap") is None


def test_disk(tmp_path, monkeypatch):
    free = reading(tmp_path, "disk").value
    assert free > 0
    assert reading(tmp_path, "disk", disk_warning_bytes=2 * int(free)).state is State.WARNING
    assert (
        reading(tmp_path, "disk", disk_warning_bytes=1 << 62, disk_critical_bytes=2 * int(free)).state
        is State.CRITICAL
    )
    assert reading(tmp_path, "disk", disk=tmp_path / "none").note.startswith("FileNotFoundError")
    figures = SimpleNamespace(f_bavail=1 << 30, f_frsize=4096, f_blocks=1 << 31, f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda path: figures)
    assert reading(tmp_path, "disk").state is State.OK
    found = reading(tmp_path, "disk", disk=tmp_path)
    assert (found.value, found.state) == (float(1 << 42), State.CRITICAL)
    assert "read-only" in found.note


def test_memory_is_what_the_container_leaves(tmp_path):
    put(tmp_path, "proc/meminfo", "MemAvailable: 4000000 kB\n")
    put(tmp_path, "proc/self/cgroup", "0::/box\n")
    put(tmp_path, "sys/fs/cgroup/box/memory.max", "200000000\n")
    used = put(tmp_path, "sys/fs/cgroup/box/memory.current", "50000000\n")
    assert reading(tmp_path, "memory") == Reading("memory", 150e6, "bytes")
    used.write_text("140000000\n", encoding="ascii")
    assert reading(tmp_path, "memory").state is State.WARNING
    used.write_text("180000000\n", encoding="ascii")
    assert reading(tmp_path, "memory").state is State.CRITICAL


def test_load(tmp_path):
    cores = os.cpu_count() or 1
    put(tmp_path, "proc/loadavg", f"{2 * cores}.00 0.90 0.40 2/345 6789\n")
    assert reading(tmp_path, "load") == Reading("load", 2.0 * cores, note=f"on {cores} cores")
    put(tmp_path, "proc/loadavg", f"{2 * cores}.10 0.90 0.40 2/345 6789\n")
    assert reading(tmp_path, "load").state is State.WARNING
