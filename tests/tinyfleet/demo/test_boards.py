"""The demo's agents under emulated boards, in turn; their groups go when the fleet stops."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.demo import fleet as demo_fleet
from tinyfleet.demo.fleet import DemoFleetSettings, Fleet
from tinyfleet.device_profiles.profile import ProfileError
from tinyfleet.emulation.board import plan_here
from tinyfleet.fedcore.run_spec import DataSettings


def fleet_of(path, *boards, agents=3):
    fleet = Fleet(path, DemoFleetSettings(agents, DataSettings(), boards=boards))
    fleet.broker_url = "mqtt://127.0.0.1:1"  # none: the agents wait for it
    return fleet


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_agents_get_the_boards_in_turn_and_again_after_a_restart(tmp_path):
    fleet = fleet_of(tmp_path, "pi-zero-2w", "pi-4b")
    try:
        for name in fleet.agents:
            fleet.start_agent(name)
        assert [told.limits.board for told in fleet.emulated.values()] == ["pi-zero-2w", "pi-4b", "pi-zero-2w"]
        fleet.kill("agent-1")
        fleet.start_agent("agent-1")
        deadline = time.monotonic() + PATIENCE_S  # until exec
        while b"TINYFLEET_EMULATED_BOARD=pi-4b" not in environment(fleet.pids["agent-1"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(fleet.emulated) == 3
    finally:
        fleet.stop()
    assert not fleet.emulated
    assert not list(Path("/sys/fs/cgroup").glob(f"**/tinyfleet-emulate-*-{os.getpid()}"))


def test_a_board_whose_cgroup_lets_nobody_in_gets_other_limits(tmp_path, closed_group):
    fleet = fleet_of(tmp_path, "pi-4b", agents=1)
    try:
        fleet.start_agent("agent-0")
        assert fleet.alive("agent-0")
        assert fleet.emulated["agent-0"].memory_means == "RLIMIT_DATA"
        assert closed_group.closed
    finally:
        fleet.stop()


def test_without_boards_nothing_is_emulated(tmp_path):
    fleet = fleet_of(tmp_path, agents=1)
    try:
        fleet.start_agent("agent-0")
        assert not fleet.emulated
    finally:
        fleet.stop()


def test_a_board_is_planned_once_for_all_of_its_agents(tmp_path, monkeypatch):
    planned = []
    monkeypatch.setattr(demo_fleet, "plan_here", lambda board: planned.append(board) or plan_here(board))
    fleet = fleet_of(tmp_path, "pi-4b", "pi-4b", "pi-zero-2w")
    try:
        for name in (*fleet.agents, "agent-0"):
            fleet.start_agent(name)
            fleet.kill(name)
    finally:
        fleet.stop()
    assert planned == ["pi-4b", "pi-zero-2w"]


def test_an_unknown_board_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ProfileError, match="'pi-99' is unknown"):
        fleet_of(tmp_path, "pi-4b", "pi-99")
    assert not list(tmp_path.iterdir())
