"""A board's limits as a plan, on machines of any size; and what the plan says is missing."""

from __future__ import annotations

import dataclasses

import pytest

from tinyfleet.device_profiles.profile import Measurement, ProfileError, shipped
from tinyfleet.emulation import board as emulation
from tinyfleet.emulation.board import Emulated, Host, plan, plan_here, this_host
from tinyfleet.fedcore.errors import ConfigError

LARGE = Host(cores=16, memory_bytes=64_000_000_000, clock_mhz=4000.0)


@pytest.mark.parametrize(
    ("board", "memory", "cores", "quota"),
    [
        ("pi-zero-2w", 409_600_000, 4, 1.0),
        ("pi-4b", 800_000_000, 4, 1.5),
        ("jetson-nano", 3_200_000_000, 4, 1.43),
    ],
)
def test_a_board_s_limits_by_clock(board, memory, cores, quota):
    limits = plan(shipped()[board], LARGE)
    assert (limits.memory_bytes, limits.cores, limits.cpu_quota) == (memory, cores, quota)
    assert (limits.memory_basis, limits.speed_basis) == ("estimate", "clock")


def test_a_measured_board_is_compared_by_what_it_does():
    measured = Measurement(350_000_000, 4, 1.0, 1.0, 10.0)
    board = dataclasses.replace(shipped()["pi-zero-2w"], measured=measured)
    limits = plan(board, dataclasses.replace(LARGE, convolution_gflops=40.0))
    assert (limits.memory_bytes, limits.memory_basis) == (350_000_000, "measured")
    assert (limits.cpu_quota, limits.speed_basis) == (0.1, "GFLOP/s")


def test_a_small_machine_gives_what_it_has_and_says_what_is_missing():
    limits = plan(shipped()["jetson-nano"], Host(cores=2, memory_bytes=1_000_000_000, clock_mhz=1200.0))
    assert (limits.memory_bytes, limits.cores, limits.cpu_quota) == (1_000_000_000, 2, 0.0)
    missing = "\n".join(Emulated(limits, "RLIMIT_DATA", "", holds_swap=False).not_emulated)
    for words in ("2 of 4 cores", "whole memory", "no faster", "GPU", "each process by itself", "no swap"):
        assert words in missing


def test_a_machine_without_a_known_clock_limits_cores_only():
    limits = plan(shipped()["pi-4b"], dataclasses.replace(LARGE, clock_mhz=0.0))
    assert (limits.cpu_quota, limits.speed_basis, limits.cores) == (0.0, "none", 4)
    assert any(
        "neither a rate nor a clock" in line for line in Emulated(limits, "cgroup v2", "", True).not_emulated
    )


def test_what_is_emulated_names_its_means():
    told = Emulated(plan(shipped()["pi-zero-2w"], LARGE), "cgroup v2", "cgroup v2", holds_swap=True, sensors=True)
    assert told.emulated == (
        "memory: 410M (an estimate), by cgroup v2",
        "cores: 4, by affinity",
        "swap: none",
        "CPU time: 1.00 cores of this machine (by clock), by cgroup v2",
        "sensors and device tree: as faked",
    )
    assert any("work per clock" in line for line in told.not_emulated)
    for always in ("instruction set", "memory bandwidth", "disk speed", "heat"):
        assert any(line.startswith(always) for line in told.not_emulated)


def test_this_machine_is_measured_for_a_measured_board_only(monkeypatch):
    asked = []
    monkeypatch.setattr(emulation, "gflops_apart", lambda engine: asked.append(engine) or 40.0)
    board = shipped()["pi-zero-2w"]
    assert (this_host(board).convolution_gflops, asked) == (0.0, [])
    measured = dataclasses.replace(board, measured=Measurement(350_000_000, 4, 1.0, 1.0, 10.0, "torch"))
    assert (this_host(measured).convolution_gflops, asked) == (40.0, ["torch"])


def test_only_boards_with_figures_can_be_emulated():
    with pytest.raises(ConfigError, match="no figures"):
        plan_here("generic")
    with pytest.raises(ProfileError, match="'pi-99' is unknown; did you mean 'pi-5'"):
        plan_here("pi-99")
