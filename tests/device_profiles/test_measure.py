"""Measuring: real probes on this machine, and the clock of a slow one."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time

import pytest

from device_profiles import measure as probes
from device_profiles.measure import measure
from device_profiles.profile import Measurement, ProfileError


def test_measuring_gives_plausible_figures(tmp_path):
    told = []
    start = time.monotonic()
    found = measure(tmp_path, lambda probe, done, total: told.append((probe, done, total)))
    assert time.monotonic() - start < 20
    assert [(done, total) for _, done, total in told] == [(n, 5) for n in range(6)]
    fields = {field.name for field in dataclasses.fields(Measurement)} - {"engine", "rates", "thermal"}
    assert {probe for probe, _, _ in told[:-1]} == fields, "each probe is told by the name of the field it fills"
    assert 0.01 < found.convolution_gflops < 10_000
    assert 0.05 < found.memory_bandwidth_gbs < 5_000
    assert found.disk_write_mbs > 0.1
    assert found.cores >= 1
    assert found.usable_memory_bytes > 1_000_000
    assert found.engine == "numpy"
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize(("engine", "remedy"), [("abacus", "choose one of numpy, torch"), ("torch", "install it")])
def test_an_engine_that_is_not_here(monkeypatch, engine, remedy):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProfileError, match=remedy):
        measure(engine=engine)
