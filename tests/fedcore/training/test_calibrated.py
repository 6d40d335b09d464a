"""Calibrations on disk, and measuring one for real."""

from __future__ import annotations

import pytest

from fedcore.errors import ConfigError
from fedcore.run_spec import ModelSettings
from fedcore.training import calibrated
from fedcore.training.calibrated import calibrate, measured_or_shipped, read, save, shipped
from fedcore.training.probe import Probe


def test_a_boards_own_comes_before_the_shipped_one(tmp_path):
    path = tmp_path / "calibration.toml"
    assert measured_or_shipped(path, "torch") == shipped("torch")
    own = shipped("torch").at_speed(1.0)
    save(own, path)
    assert read(path) == own == measured_or_shipped(path, "torch")
    assert measured_or_shipped(path, "abacus") is None


def test_a_damaged_file_says_which_and_why(tmp_path):
    path = tmp_path / "calibration.toml"
    path.write_text('engine = "torch"\nbyte_model = "much"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"calibration\.toml"):
        read(path)


def test_another_machines_times_are_in_proportion_to_its_speed():
    here = shipped("torch")
    slow = here.at_speed(here.convolution_gflops / 10)
    assert slow.second_gflop == pytest.approx(10 * here.second_gflop)
    assert (slow.byte_replayed, slow.engine_bytes) == (here.byte_replayed, here.engine_bytes)
    assert here.at_speed(0.0) == here


def test_calibrating_measures_real_steps(monkeypatch):
    small = ModelSettings("small_cnn", (1, 28, 28), 10, {})
    probes = [Probe(small, 8, steps=1), Probe(small, 64, steps=1), Probe(small, 64, keep=0.3, steps=1)]
    monkeypatch.setattr(calibrated, "standard_probes", lambda engine: probes)
    told = []
    found = calibrate("torch", "here", 12.3456, lambda what, done, total: told.append((what, done, total)))
    assert told[0] == ("small_cnn, batch 8", 0, 3)
    assert told[-1] == ("", 3, 3)
    assert (found.machine, found.convolution_gflops) == ("here", 12.346)
    assert 5e7 < found.engine_bytes < 1e9
    assert found.second_gflop + found.second_value + found.second_pass > 0
