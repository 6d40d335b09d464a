"""One task of the open step: its offers, its pauses, what a restart makes of it, and the deadline that waits."""

from __future__ import annotations

import pytest

from tinyfleet.coordinator.run.late import LateDevices
from tinyfleet.coordinator.states import PhaseEvent, TaskPhase
from tinyfleet.coordinator.step.deadline import StepDeadline
from tinyfleet.coordinator.step.step_task import StepTask
from tinyfleet.coordinator.store.records import Share, TaskNote
from tinyfleet.coordinator.store.rows import TaskRow
from tinyfleet.fedcore.protocol.messages import TaskState, TaskStatus


def row(state):
    return TaskRow("r", 0, "board", state, "why", 8, None, None, 99, None, None, "", 1, 3, 9, 12, 0.5)


@pytest.mark.parametrize("phase", TaskPhase)
def test_after_a_restart_what_was_under_way_is_offered_and_what_was_settled_stays(phase):
    task = StepTask.resumed(row(phase))
    under_way = phase in (TaskPhase.OFFERED, TaskPhase.ACCEPTED, TaskPhase.RUNNING, TaskPhase.UPLOADING)
    assert task.phase is (TaskPhase.OFFERED if under_way else phase)
    assert (task.local_steps, task.activation_keep, task.retries, task.reason) == (12, 0.5, 1, "why")
    assert task.wall_s(5.0) is None, "its offer left in another process"


def test_an_offer_goes_out_at_once_and_again_after_silence():
    task = StepTask.given(Share("board", local_steps=12, activation_keep=0.5))
    assert task.due(0.0, 10.0, is_at_it=False)
    task.sent(0.0)
    assert not task.due(9.0, 10.0, is_at_it=False)
    assert task.due(10.0, 10.0, is_at_it=False)
    assert not task.due(10.0, 10.0, is_at_it=True)
    task.sent(10.0)
    assert task.wall_s(15.0) == 15.0, "since the first of this try"


def test_a_try_after_a_stumble_waits_and_has_its_own_time():
    task = StepTask("board")
    task.sent(0.0)
    task.follow(PhaseEvent.PROGRESS)
    task.try_again(7.0)
    assert (task.phase, task.retries) == (TaskPhase.OFFERED, 1)
    assert not task.due(6.0, 10.0, is_at_it=False)
    assert task.due(7.0, 10.0, is_at_it=False)
    task.sent(7.0)
    assert task.wall_s(9.0) == 2.0


def test_what_is_written_is_what_was_said_last():
    task = StepTask("board")
    status = TaskStatus(
        "r", 0, TaskState.RUNNING, local_steps_done=3, local_steps_total=9, micro_batch=4, levers="micro-batch 4"
    )
    task.measured(status)
    task.progressed(status)
    task.follow(PhaseEvent.PROGRESS)
    assert not task.is_noted
    assert task.note() == TaskNote("board", TaskPhase.RUNNING, "", 0, 4, 0, 3, 9, "micro-batch 4")
    assert task.is_noted


def test_a_deadline_waits_for_the_longest_pause_of_those_it_waits_for():
    deadline = StepDeadline(100.0, 20.0)
    first, second, done = StepTask("a"), StepTask("b"), StepTask("c", TaskPhase.FAILED)
    tasks = (first, second, done)
    done.pauses("hot", 19.0, 100.0)
    assert deadline.due_at(tasks, 105.0) == 120.0, "nobody waits for what is settled"
    first.pauses("hot", 2.0, 103.0)
    second.pauses("hot", 3.0, 105.0)
    assert deadline.put_off_s(tasks, 105.0) == 4.0
    assert second.goes_on(3.0)
    assert not second.goes_on(3.0)
    assert deadline.due_at(tasks, 200.0) == 140.0, "at most as long as itself"
    assert deadline.left_s(tasks, 200.0) == 0.0
    deadline.set_again(tasks, 200.0)
    assert deadline.put_off_s(tasks, 200.0) == 0.0, "pauses put off one deadline"
    assert deadline.put_off_s(tasks, 203.0) == 3.0
    assert deadline.left_s(tasks, 203.0) == 20.0


def test_who_is_late_too_long_is_dropped():
    late = LateDevices(staleness=1)
    late.add(["a", "b"], 3)
    assert late.counts(3, 4)
    assert not late.counts(4, 4), "of the coming step: not late"
    late.free("b")
    assert set(late) == {"a"}
    assert late.drop_too_late(4) == {}
    assert late.drop_too_late(5) == {"a": 3}
    assert "a" not in late
