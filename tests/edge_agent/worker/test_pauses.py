"""A board that overheats: the worker stops, the coordinator hears why, training goes on."""

from __future__ import annotations

import pytest

from tests.device_profiles.sensors.trees import ZONE, put
from tests.edge_agent.rig import Rig
from tinyfleet.edge_agent.states import AssignmentState
from tinyfleet.fedcore.protocol.messages import ResultOffer, TaskState, TaskStatus

HEAT = f"{ZONE.format(0)}/temp"


@pytest.fixture
def rig(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_SYSFS_ROOT", str(tmp_path / "root"))
    put(tmp_path / "root", HEAT, "50000\n")
    made = Rig(tmp_path)
    made.accepted()
    return made


def heat(rig, celsius):
    put(rig.state / "root", HEAT, f"{celsius}000\n")


def wait(rig, seconds):
    for _ in range(seconds):
        rig.clock.now += 1.0
        rig.settle()


def last(rig):
    return rig.coordinator.of(TaskStatus)[-1]


def test_heat_pauses_a_task_and_coolness_resumes_it(rig):
    rig.training(0)
    wait(rig, 2)
    assert not rig.worker.paused
    heat(rig, 90)
    wait(rig, 1)
    assert rig.worker.paused
    assert last(rig).state is TaskState.PAUSED
    assert "90" in last(rig).reason
    assert "resumes" in last(rig).reason
    heat(rig, 60)
    wait(rig, 20)
    assert rig.worker.paused  # a pause lasts at least half a minute
    wait(rig, 20)
    assert not rig.worker.paused
    assert (last(rig).state, last(rig).reason) == (TaskState.RUNNING, "")
    assert last(rig).paused_s == pytest.approx(30, abs=2)
    assert rig.agent.assignment.state is AssignmentState.TRAINING


def test_a_pause_is_no_training_time(rig):
    rig.training(0)
    heat(rig, 90)
    wait(rig, 2)
    heat(rig, 60)
    wait(rig, 40)
    rig.worker.finish(train_s=35.0)
    rig.settle()
    offer = rig.coordinator.of(ResultOffer)[-1]
    assert offer.train_s == pytest.approx(5.0, abs=2)
    finished = [status for status in rig.coordinator.of(TaskStatus) if status.state is TaskState.FINISHED]
    assert finished[-1].paused_s == pytest.approx(30, abs=2), "the deadline is put off until the result is there"


def test_a_task_that_is_cancelled_while_it_pauses_ends_at_once(rig):
    rig.training(0)
    heat(rig, 90)
    wait(rig, 2)
    rig.agent.assignment.cancelled("r", 0, "the round is over")
    assert rig.worker.closed
    rig.training(1)
    wait(rig, 2)
    assert rig.worker.paused, "the board is still too hot for the next one"


def test_a_warm_worker_stopped_at_its_last_word_goes_on_with_the_next_task(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYFLEET_SYSFS_ROOT", str(tmp_path / "root"))
    put(tmp_path / "root", HEAT, "50000\n")
    rig = Rig(tmp_path, policy="warm")
    rig.accepted()
    rig.training(0)
    rig.worker.finish()
    rig.settle()
    rig.worker.paused = True  # as a pause that came with its last event would leave it
    rig.coordinator.verdict(0)
    rig.settle()
    rig.training(1, blob=b"next")
    assert len(rig.workers) == 1
    assert not rig.worker.paused
