"""Measuring: real probes on this machine, and the clock of a slow one."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time

import pytest

from tinyfleet.device_profiles.measuring import measure as probes
from tinyfleet.device_profiles.measuring import rates, thermal
from tinyfleet.device_profiles.measuring.compare import differences
from tinyfleet.device_profiles.measuring.measure import measure
from tinyfleet.device_profiles.profile import Measurement, ProfileError, read

LOAD_S = 10


@pytest.mark.slow
def test_measuring_gives_plausible_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "LEAST_S", 0.001)
    monkeypatch.setattr(thermal, "usable_cores", lambda: 1)
    told = []
    found = measure(
        tmp_path, lambda probe, done, total: told.append((probe, done, total)), thermal_seconds=1, root=tmp_path
    )
    assert [(done, total) for _, done, total in told] == [(n, 18) for n in range(19)]
    fields = {field.name for field in dataclasses.fields(Measurement)} - {"engine"}
    assert {probe.split()[0] for probe, _, _ in told[:-1]} == fields, "each probe is told by the field it fills"
    assert told[5][0] == "rates dense fp32 1"
    assert 0.01 < found.convolution_gflops < 10_000
    assert 0.05 < found.memory_bandwidth_gbs < 5_000
    assert found.disk_write_mbs > 0.1
    assert found.cores >= 1
    assert found.usable_memory_bytes > 1_000_000
    assert found.engine == "numpy"
    assert [(rate.kernel, rate.dtype, rate.density) for rate in found.rates] == list(rates.cases())
    assert all(0 < rate.gflops < 10_000 for rate in found.rates)
    assert (found.thermal.seconds, found.thermal.peak_celsius) == (1, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_load_and_less_than_none(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "active_rate", lambda engine, kernel, dtype, density: None)
    assert measure(tmp_path, thermal_seconds=0).thermal is None
    with pytest.raises(ProfileError, match="-1 s of load; give 0 for none"):
        measure(tmp_path, thermal_seconds=-1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_measuring_again_finds_the_same(tmp_path):
    """Of the same order: this machine may be shared. `profile compare` tells how well a quiet one repeats."""
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from tinyfleet.device_profiles import detect\n"
        "from tinyfleet.device_profiles.measuring import measure\npath = Path(sys.argv[1])\n"
        "found = measure.measure(path.parent, thermal_seconds=int(sys.argv[2]))\n"
        "replace(detect.detect(), measured=found).save(path)"
    )

    def once(name, seconds):
        path = tmp_path / name
        subprocess.run([sys.executable, "-c", code, str(path), str(seconds)], check=True)
        return read(path).measured

    start = time.monotonic()
    first = once("first.toml", LOAD_S)
    took_s = time.monotonic() - start - LOAD_S + thermal.SECONDS
    assert took_s < 240, "two minutes on a quiet machine, with the usual load"
    second = once("second.toml", 0)
    assert (first.thermal.seconds, second.thermal) == (LOAD_S, None)
    rows = [[(rate.kernel, rate.dtype, rate.density) for rate in found.rates] for found in (first, second)]
    assert rows[0] == rows[1] == list(rates.cases())
    largest, *_ = found = differences(first, second)
    assert len(found) == 3 + len(rates.cases())
    assert largest.share < 1.0, largest


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_s_convolution_leaves_its_threads_as_they_were():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert 0.01 < probes.torch_convolution_gflops() < 10_000
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_measurement_apart_has_one_thread_and_changes_nothing_here(monkeypatch):
    environments = []
    really = subprocess.run

    def run(command, **given):
        environments.append(given["env"])
        return really(command, **given)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    before = dict(os.environ)
    probes.gflops_apart.cache_clear()
    rate = probes.gflops_apart("numpy")
    assert 0.01 < rate < 10_000
    assert probes.gflops_apart("numpy") == rate
    (environment,) = environments
    assert (environment["OMP_NUM_THREADS"], environment["OPENBLAS_NUM_THREADS"]) == ("1", "1")
    assert dict(os.environ) == before


def test_a_measurement_apart_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    probes.gflops_apart.cache_clear()
    with pytest.raises(ProfileError, match=r"speed with numpy failed: .*status 1"):
        probes.gflops_apart("numpy")
    with pytest.raises(ProfileError, match="'abacus' cannot measure"):
        probes.gflops_apart("abacus")


@pytest.mark.parametrize(
    ("engine", "remedy"), [("abacus", "choose one of numpy, torch"), ("torch", r"tinyfleet\[torch\]")]
)
def test_an_engine_that_is_not_here(monkeypatch, engine, remedy):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProfileError, match=remedy):
        measure(engine=engine)
