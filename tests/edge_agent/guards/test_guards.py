"""What pauses training and what lets it go on, on fake boards."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from tests.device_profiles.sensors.trees import BATTERY, HWMON, THROTTLED, ZONE, put
from tinyfleet.device_profiles.sensors.read import names
from tinyfleet.device_profiles.sensors.sensor import Options
from tinyfleet.edge_agent.guards.guards import NAMES, GuardLimits, Guards, PauseVerdict, reader

HEAT = f"{ZONE.format(0)}/temp"
CHARGE, CHARGING = f"{BATTERY.format('BAT0')}/capacity", f"{BATTERY.format('BAT0')}/status"
QUICK = {"resume_after_s": 3.0, "least_pause_s": 0.0}


class Board:
    """A fake tree, guards that read it, and seconds that pass when a test says so."""

    def __init__(self, root, limits, disabled=()):
        self.root = root
        self.now = 500.0
        self.guards = Guards(limits, reader(disabled, Options()), lambda: self.now)

    def put(self, path, content):
        put(self.root, path, content)

    def check(self, seconds=1.0) -> PauseVerdict:
        self.now += seconds
        return self.guards.check()

    def pauses(self, path, values):
        """One letter a second: P while paused."""
        letters = []
        for value in values:
            self.put(path, f"{value}\n")
            letters.append("P" if self.check().paused else ".")
        return "".join(letters)


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_SYSFS_ROOT", str(tmp_path))
    return lambda disabled_sensors=(), **limits: Board(tmp_path, GuardLimits(**limits), disabled_sensors)


@pytest.fixture
def disk(monkeypatch):
    """Free bytes of the disk, to be set."""
    figures = SimpleNamespace(f_bavail=10**10, f_frsize=1, f_blocks=10**11, f_flag=0)
    monkeypatch.setattr(os, "statvfs", lambda path: figures)
    return figures


def test_the_guards_are_sensors():
    assert set(NAMES) <= set(names())


def test_a_board_without_sensors_never_pauses(board):
    assert board().check() == PauseVerdict(False)


def test_overheating_pauses_until_it_was_cool_for_a_while(board):
    hot = board(**QUICK)
    degrees = [70, 80, 84.9, 85, 90, 84, 76, 75, 74.9, 74, 76, 74, 74, 74, 74, 80, 84, 85]
    #          .   .   .     P   P   P   P   P   P     P   P   P   P   P   .   .   .   P
    assert hot.pauses(HEAT, [round(1000 * value) for value in degrees]) == "...PPPPPPPPPPP...P"
    assert hot.guards.paused_s == 11.0
    hot.check(4.0)
    assert hot.guards.paused_s == 15.0
    hot.guards.begin()
    assert hot.guards.paused_s == 0.0
    assert hot.check().paused, "as hot as for the last task"
    assert hot.guards.paused_s == 1.0


def test_time_between_tasks_is_no_pause_of_the_next(board):
    hot = board(**QUICK)
    hot.put(HEAT, "90000\n")
    assert hot.check().paused
    hot.now += 1000.0
    hot.guards.begin()
    hot.check(2.0)
    assert hot.guards.paused_s == 2.0


def test_a_gap_of_its_own(board):
    hot = board(temperature_resume_c=83.0, resume_after_s=0.0, least_pause_s=0.0)
    assert hot.pauses(HEAT, [85000, 83000, 82900, 84900, 85000]) == "PP..P"


def test_a_pause_lasts_at_least_so_long(board):
    hot = board(resume_after_s=1.0, least_pause_s=6.0)
    assert hot.pauses(HEAT, [85000, *[60000] * 7]) == "PPPPPP.."


def test_a_reason_tells_value_limit_and_remedy_and_stays(board):
    hot = board()
    hot.put(f"{ZONE.format(0)}/type", "cpu-thermal\n")
    hot.put(HEAT, "87300\n")
    expected = (
        "the temperature is 87.3 °C (cpu-thermal), the limit 85 °C; "
        "training resumes after 10 s with less than 75 °C"
    )
    assert hot.check() == PauseVerdict(True, (expected,))
    hot.put(HEAT, "90000\n")
    assert hot.check() == PauseVerdict(True, (expected,))


@pytest.mark.parametrize(
    ("path", "alarm", "well"),
    [(f"{HWMON.format(0)}/in0_lcrit_alarm", "1", "0"), (THROTTLED, "1", "10000")],
)
def test_under_voltage(board, path, alarm, well):
    weak = board(**QUICK)
    weak.put(f"{HWMON.format(0)}/name", "rpi_volt\n")
    weak.put(f"{HWMON.format(0)}/in0_lcrit_alarm", "0\n")
    assert weak.pauses(path, [well, alarm, well, well, alarm, well, well, well, well]) == ".PPPPPPP."
    weak.put(path, f"{alarm}\n")
    (reason,) = weak.check().reasons
    assert reason.startswith("the supply's voltage is too low")
    assert reason.endswith("training resumes after 3 s with enough voltage")


@pytest.mark.parametrize(("soft", "expected"), [(False, "...P"), (True, ".PPP")])
def test_throttling_and_its_soft_limits(board, soft, expected):
    slow = board(soft_throttling=soft, **QUICK)
    # Bits of the past (sixteen up); clock capped; the soft limit; throttled.
    assert slow.pauses(THROTTLED, ["e0000", "2", "8", "4"]) == expected
    assert "0x" in slow.check().reasons[0]


def test_a_battery_that_is_low_and_one_that_is_charged(board):
    mobile = board(resume_after_s=0.0, least_pause_s=0.0)
    mobile.put(CHARGING, "Discharging\n")
    assert mobile.pauses(CHARGE, [50, 20, 10, 9]) == "...P"
    assert mobile.check().reasons == (
        "the battery has 9 % (BAT0 discharging), the limit is 10 %; "
        "training resumes after 0 s with at least 30 % or a charger",
    )
    assert mobile.pauses(CHARGE, [11, 29, 30, 9]) == "PP.P"
    assert mobile.pauses(CHARGING, ["Charging", "Discharging"]) == ".P"


def test_a_full_disk(board, disk):
    full = board(resume_after_s=0.0, least_pause_s=0.0)
    verdicts = []
    for megabytes in (101, 100, 99, 100, 150, 150.1):
        disk.f_bavail = round(megabytes * 1e6)
        verdicts.append(full.check())
    assert [verdict.paused for verdict in verdicts] == [False, False, True, True, True, False]
    assert verdicts[2].reasons == (
        "the disk has 99 MB free, the limit is 100 MB: results could not be kept; "
        "training resumes after 0 s with more than 150 MB",
    )


def test_a_failing_sensor_trips_nothing_and_stops_no_other(board):
    broken = board(**QUICK)
    broken.put(HEAT, "warm\n")
    broken.put(THROTTLED, "zzz\n")
    broken.put(CHARGING, "Discharging\n")
    broken.put(CHARGE, "2\n")
    (reason,) = broken.check().reasons
    assert "battery" in reason


def test_a_sensor_that_fails_while_it_pauses_holds_nothing_for_ever(board):
    assert board(**QUICK).pauses(HEAT, [90000, "gone", "gone", "gone", "gone", "gone"]) == "PPPP.."


def test_two_guards_at_once(board):
    bad = board(**QUICK)
    bad.put(CHARGING, "Discharging\n")
    bad.put(CHARGE, "2\n")
    bad.put(HEAT, "90000\n")
    assert len(bad.check().reasons) == 2
    assert bad.pauses(HEAT, [20000] * 5) == "PPPPP", "the battery is still empty"
    (reason,) = bad.check().reasons
    assert "battery" in reason


@pytest.mark.parametrize(
    "limits", [{"disabled": frozenset({"temperature"})}, {"disabled_sensors": ("temperature",)}]
)
def test_what_is_disabled_never_pauses(board, limits):
    assert board(**limits).pauses(HEAT, [90000, 100000]) == ".."


def test_no_vendors_tool_is_started(board, tmp_path):
    tool = put(tmp_path, "usr/bin/vcgencmd", f"#!/bin/sh\ntouch {tmp_path}/started\necho throttled=0x4\n")
    tool.chmod(0o755)
    assert not board().check().paused
    assert not (tmp_path / "started").exists()
