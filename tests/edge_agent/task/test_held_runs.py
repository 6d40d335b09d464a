"""What is kept of runs says whose it is, is bounded, and survives damage."""

from __future__ import annotations

import os

import pytest

from tinyfleet.edge_agent.task.held_runs import KEPT_RUNS, HeldRuns
from tinyfleet.fedcore.protocol.messages import Hello, RunEnded


def used_at(held, run, seconds):
    os.utime(held.keep(run) / "run", (seconds, seconds))


def test_runs_are_named_the_latest_first_until_they_end(tmp_path):
    held = HeldRuns(tmp_path / "masks")
    assert held.names() == []
    for number, run in enumerate(("a", "b/../c", "d")):
        used_at(held, run, 1000 + number)
    assert HeldRuns(tmp_path / "masks").names() == ["d", "b/../c", "a"]
    held.forget("d")
    held.forget("never seen")
    assert held.names() == ["b/../c", "a"]


def test_those_used_longest_ago_go(tmp_path):
    held = HeldRuns(tmp_path)
    for number in range(KEPT_RUNS + 3):
        used_at(held, f"run-{number}", 1000 + number)
    assert held.names() == [f"run-{number}" for number in range(KEPT_RUNS + 2, 2, -1)]


@pytest.mark.parametrize("hurt", ["file", "name is a folder", "name is another's", "name is no text", "no name"])
def test_a_damaged_folder_is_mended_by_the_next_task(tmp_path, hurt):
    held = HeldRuns(tmp_path)
    folder = held.folder("r")
    if hurt == "file":
        folder.write_bytes(b"x")
    else:
        folder.mkdir()
        (folder / "mask").write_bytes(b"m")
        name = folder / "run"
        if hurt == "name is a folder":
            name.mkdir()
        elif hurt != "no name":
            name.write_bytes(b"other" if "another" in hurt else b"\xff\xfe")
    assert held.names() == []
    assert held.keep("r") == folder
    assert held.names() == ["r"]
    if hurt != "file":
        assert (folder / "mask").read_bytes() == b"m"


def test_the_hello_says_what_is_held_and_a_missed_end_is_made_up_for(rig):
    rig.training(run="one")
    rig.coordinator.verdict(run="one")
    rig.worker.finish()
    rig.settle()
    rig.training(run="two")
    rig.agent.link.connected()
    rig.settle()
    assert rig.coordinator.of(Hello)[-1].held == ["two", "one"]
    rig.coordinator.say(RunEnded("one"))
    rig.settle()
    rig.agent.link.connected()
    rig.settle()
    assert rig.coordinator.of(Hello)[-1].held == ["two"]
