"""Behaviour under load: a real load on a fake /sys, and what samples say together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.device_profiles.sensors.trees import POLICY, THROTTLED, ZONE, put, raspberry_pi
from tests.patience import PATIENCE_S
from tinyfleet.device_profiles.measuring import thermal
from tinyfleet.device_profiles.measuring.thermal import Sample, behaviour, look, summary
from tinyfleet.device_profiles.profile import ProfileError


def children():
    return [
        child
        for child in psutil.Process().children()
        if "tinyfleet.device_profiles.measuring.burn" in child.cmdline()
    ]


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr(thermal, "usable_cores", lambda: 1)


@pytest.mark.slow
def test_a_real_load_on_a_pi_that_gets_hot(tmp_path, one_core):
    root = raspberry_pi(tmp_path)
    put(root, THROTTLED, "0\n")
    put(root, f"{POLICY.format(0)}/scaling_cur_freq", "1000000\n")
    told = []

    def heat(second):
        told.append((second, len(children())))
        if second == 1:
            put(root, f"{ZONE.format(1)}/temp", "84500\n")
            put(root, f"{POLICY.format(0)}/scaling_cur_freq", "600000\n")
            put(root, THROTTLED, "80008\n")

    found = behaviour(2, root, heat)
    assert told == [(0, 1), (1, 1)], "each second is told, with one process a core"
    assert (found.start_celsius, found.peak_celsius) == (61.0, 84.5)
    assert (found.start_clock_mhz, found.lowest_clock_mhz) == (1000.0, 600.0)
    assert found.throttled is True
    assert (found.seconds, found.cores) == (2, 1)
    assert found.gflops > 0
    assert found.sustained_share > 0
    assert not children()


def test_without_any_sensor_the_share_is_left(tmp_path, one_core):
    found = behaviour(1, tmp_path)
    assert found.sustained_share == 1.0, "one sample is its own first and last quarter"
    sensors = (found.start_celsius, found.peak_celsius, found.start_clock_mhz, found.lowest_clock_mhz)
    assert (*sensors, found.throttled) == (None,) * 5


def test_ctrl_c_leaves_no_process(tmp_path, one_core):
    def interrupt(second):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        behaviour(30, tmp_path, interrupt)
    assert not children()


def test_a_load_that_dies_is_no_slow_board(tmp_path, one_core):
    def shoot(second):
        (child,) = children()
        child.send_signal(signal.SIGKILL)

    with pytest.raises(ProfileError, match="ended with -9; free memory"):
        behaviour(30, tmp_path, shoot)


def test_a_load_ends_with_its_parent(tmp_path):
    """The parent is killed without a chance to clean up."""
    code = (
        "import os, time; from tinyfleet.device_profiles.measuring import thermal\n"
        "with thermal._load(1): print(next(iter(__import__('psutil').Process().children())).pid, flush=True);"
        " time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + PATIENCE_S
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def sample(gflops=8.0, celsius=None, mhz=None, cap=None, bits=None):
    return Sample(celsius, mhz, cap, bits, gflops)


def test_the_share_is_of_the_last_quarter_by_the_first():
    found = summary(sample(), [sample(10.0)] * 3 + [sample(9.0)] * 6 + [sample(5.0)] * 3, cores=4)
    assert (found.sustained_share, found.gflops, found.seconds) == (0.5, 5.0, 12)


@pytest.mark.parametrize(
    ("before", "during", "throttled"),
    [
        (sample(), sample(), None),
        (sample(bits=0), sample(bits=0), False),
        (sample(bits=0), sample(bits=0b0100), True),
        (sample(bits=0), sample(bits=0b0001), False),  # a weak supply alone slows nothing
        (sample(bits=0x40000), sample(bits=0x40000), False),  # some time since the boot
        (sample(cap=60.0), sample(cap=60.0), False),  # set by a person
        (sample(cap=100.0), sample(cap=80.0), True),
    ],
)
def test_what_throttling_is(before, during, throttled):
    assert summary(before, [during, sample()], cores=1).throttled is throttled


def test_a_sensor_that_cannot_be_read_is_none(tmp_path):
    put(tmp_path, f"{ZONE.format(0)}/temp", "hot\n")
    put(tmp_path, f"{POLICY.format(0)}/scaling_cur_freq", "<unknown>\n")
    put(tmp_path, f"{POLICY.format(4)}/scaling_cur_freq", "1800000\n")
    assert look(tmp_path) == Sample(None, 1800.0, None, None)
