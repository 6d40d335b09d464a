"""A program under an emulated board finds that board, its sensors, and no more memory than it was left."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tinyfleet.device_profiles import cores
from tinyfleet.device_profiles import detect as detection
from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.detect import detect
from tinyfleet.device_profiles.emulated import BOARD_VARIABLE, ROOT_VARIABLE, emulated_board, sysfs_root
from tinyfleet.device_profiles.profile import ProfileError
from tinyfleet.device_profiles.sensors.read import read_all, read_health


def test_the_emulated_board_is_detected(monkeypatch):
    monkeypatch.setenv(BOARD_VARIABLE, "jetson-nano")
    monkeypatch.setattr(detection, "total_memory_bytes", lambda: 3_000_000_000)
    found = detect()
    assert (found.name, found.title) == ("jetson-nano", "NVIDIA Jetson Nano (emulated)")
    assert (found.memory_bytes, found.cores) == (3_000_000_000, min(4, len(os.sched_getaffinity(0))))


def test_a_given_root_is_read_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv(BOARD_VARIABLE, "jetson-nano")
    assert detect(tmp_path).name == "generic"


def test_the_quota_of_an_emulation_is_speed_not_a_number_of_cores(monkeypatch):
    monkeypatch.setattr(cores, "cpu_quota", lambda root: 0.5)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert usable_cores() == 1
    monkeypatch.setenv(BOARD_VARIABLE, "pi-4b")
    assert usable_cores() == 4


def test_an_unknown_board_is_refused():
    with pytest.raises(ProfileError, match=f"{BOARD_VARIABLE}: board 'pi-99' is unknown; did you mean 'pi-5'"):
        emulated_board({BOARD_VARIABLE: "pi-99"})
    assert emulated_board({}) is None


def test_sensors_and_device_tree_come_from_the_faked_root(monkeypatch, tmp_path):
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("83000\n")
    tree = tmp_path / "sys/firmware/devicetree/base"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"raspberrypi,5-model-b\0")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    health = read_health()
    assert health["temperature_c"] == 83.0
    assert {reading.name: reading.state for reading in read_all()}["temperature"] == "warning"
    assert health["free_memory_bytes"] > 0
    assert detect().name == "pi-5"
    assert str(sysfs_root({})) == "/"


def test_a_limit_on_the_process_itself_counts_as_its_memory():
    code = (
        "import json, resource; resource.setrlimit(resource.RLIMIT_DATA, (300_000_000, 300_000_000));"
        "from tinyfleet.device_profiles.limits import total_memory_bytes, usable_memory_bytes;"
        "print(json.dumps([total_memory_bytes(), usable_memory_bytes()]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, usable = json.loads(ran.stdout)
    assert total == 300_000_000
    assert usable <= total
