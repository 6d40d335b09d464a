"""``tinyfleet profile measure``: what it keeps, tells and warns of. The probes have tests of their own."""

from __future__ import annotations

import json

import pytest

from tinyfleet.device_profiles.emulated import BOARD_VARIABLE
from tinyfleet.device_profiles.measuring import measure as probes
from tinyfleet.device_profiles.profile import Measurement, Rate, Thermal, read

FOUND = Measurement(
    400_000_000, 1, 1.5, 2.0, 15.0, rates=(Rate("sparse", 0.01, "fp32", 0.25),), thermal=Thermal(9, 1, 1.0, 0.8)
)


@pytest.fixture
def measured(monkeypatch):
    """A slow Pi Zero 2 W; returns what ``measure`` was given."""
    given = []

    def measure(directory, progress, engine, thermal_seconds):
        given.append((directory, engine, thermal_seconds))
        progress("cores", 0, 1)
        progress("", 1, 1)
        return FOUND

    monkeypatch.setattr(probes, "measure", measure)
    monkeypatch.setenv(BOARD_VARIABLE, "pi-zero-2w")
    return given


def test_it_is_kept_and_compared(tinyfleet, tmp_path, measured):
    path = tmp_path / "board.toml"
    ran = tinyfleet("profile", "measure", "--out", path, "--engine", "torch", "--thermal-seconds", 9)
    assert ran.code == 0
    assert measured == [(tmp_path, "torch", 9)]
    assert (read(path).name, read(path).measured) == ("pi-zero-2w", FOUND)
    assert ["sparse", "fp32", "0.01", "0.25"] in [line.split() for line in ran.out.splitlines()]
    assert ["thermal", "sustained_share", "0.8"] in [line.split() for line in ran.out.splitlines()]
    assert "measuring 0/1: cores" in ran.err
    assert "warning: cores is 1 here, 4 in the shipped profile; affinity" in ran.err


def test_json_has_the_warnings(tinyfleet, tmp_path, measured, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = json.loads(tinyfleet("profile", "measure", "--json").out)
    assert (found["board"], found["rates"][0]["gflops"]) == ("pi-zero-2w", 0.25)
    assert [warning["figure"] for warning in found["warnings"]] == ["cores", "sustained_share"]
    assert found["warnings"][0]["shipped"] == 4
    assert found["profile"] == str(tmp_path / "profile.toml")


def test_a_missing_folder_is_found_before_two_minutes_pass(tinyfleet, tmp_path, measured):
    ran = tinyfleet("profile", "measure", "--out", tmp_path / "none" / "p.toml")
    assert (ran.code, "give another file with --out" in ran.err) == (2, True)
    assert measured == []


def test_two_measurements_are_compared(tinyfleet, tmp_path, measured):
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    assert tinyfleet("profile", "measure", "--out", first).code == 0
    text = first.read_text(encoding="utf-8")
    assert "disk_write_mbs = 15.0" in text
    second.write_text(text.replace("disk_write_mbs = 15.0", "disk_write_mbs = 12.0"), encoding="utf-8")
    ran = tinyfleet("profile", "compare", first, second)
    assert ran.code == 0
    assert ["disk_write_mbs", "15", "12", "25.0%"] in [line.split() for line in ran.out.splitlines()]
    found = json.loads(tinyfleet("profile", "compare", first, second, "--json").out)
    assert (found[0]["figure"], found[0]["share"]) == ("disk_write_mbs", 0.25)
    bare = tmp_path / "bare.toml"
    bare.write_text(text.split("[measured]")[0], encoding="utf-8")
    ran = tinyfleet("profile", "compare", first, bare)
    assert (ran.code, "has no measurement" in ran.err) == (2, True)
