"""What the worker says, and what becomes of the task by it."""

from __future__ import annotations

import logging

from tests.edge_agent.rig import BASE, SPEC
from tinyfleet.edge_agent.worker.commands import (
    Chosen,
    Declined,
    MaskMissing,
    NearLimit,
    OverBudget,
    Planned,
    StepsDone,
    TaskFailed,
    TightenCommand,
    Tightened,
    TrainingBegan,
    Unfit,
)
from tinyfleet.fedcore.planning.plan import Way
from tinyfleet.fedcore.protocol.messages import ResultOffer, TaskState, TaskStatus
from tinyfleet.fedcore.training.levers import Levers


def chosen(index: int, micro_batch: int, keep: float = 1.0) -> Chosen:
    return Chosen(index, 4, Way(Levers(micro_batch, keep)), 90_000_000)


def test_progress_goes_out_at_most_once_a_second(rig):
    rig.training()
    for step in range(50):
        rig.worker.events.append(StepsDone(step, 50, 1.0))
        rig.settle(0.1, turns=1)
    sent = [status for status in rig.coordinator.of(TaskStatus) if status.local_steps_total == 50]
    assert 4 <= len(sent) <= 6


def test_over_budget_then_the_next_smaller_micro_batch(rig):
    expected = [0, 4, 2, 1]
    for attempt, micro_batch in enumerate(expected):
        rig.training(0)
        assert rig.worker.task.first_way == attempt
        rig.worker.events += [
            Planned(chosen(attempt, micro_batch)),
            TrainingBegan("torch"),
            OverBudget("killed by the kernel"),
        ]
        rig.settle()
        status = rig.coordinator.of(TaskStatus)[-1]
        assert status.state is TaskState.OVER_BUDGET
        assert status.peak_rss_bytes == 99
        assert status.micro_batch == micro_batch
        assert ("the next try takes less" in status.reason) == (attempt < 3)
        assert rig.worker.closed
    rig.coordinator.offer(0)
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
    assert "4 tries" in rig.coordinator.of(TaskStatus)[-1].reason
    assert len(rig.workers) == 4


def test_near_its_limit_a_worker_is_asked_for_less_and_goes_on(rig):
    rig.training(0)
    rig.worker.events += [Planned(chosen(0, 8)), NearLimit(95_000_000)]
    rig.settle()
    assert len(rig.worker.commands) == 1  # not before it trains: nothing could get smaller
    rig.worker.events += [
        TrainingBegan("torch"),
        NearLimit(95_000_000),
    ]
    rig.settle()
    assert rig.worker.commands[1:] == [TightenCommand()]
    rig.worker.events += [
        Tightened(chosen(2, 4, 0.5)),
        StepsDone(3, 9, 1.0),
    ]
    rig.clock.now += 5.0
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].micro_batch == 4
    assert rig.governor.limits(SPEC).first_way == 2  # the next task begins there
    assert not rig.worker.closed


def test_a_task_that_cannot_fit_is_declined_by_the_workers_plan(rig):
    rig.training(0)
    rig.worker.events.append(Declined("needs 400M"))
    rig.settle()
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
    assert "400M" in rig.coordinator.of(TaskStatus)[-1].reason
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED


def test_a_failed_worker_is_told_and_the_agent_lives_on(rig):
    rig.training(0)
    rig.worker.events.append(TaskFailed("WorkerDied", "ended by SIGSEGV"))
    rig.settle()
    status = rig.coordinator.of(TaskStatus)[-1]
    assert (status.state, status.reason) == (TaskState.FAILED, "WorkerDied: ended by SIGSEGV")
    rig.training(0)
    assert len(rig.workers) == 2


def test_a_mask_that_is_not_held_is_asked_for(rig):
    rig.training(0, blob=b"refers")
    rig.worker.events.append(MaskMissing("x", "mask x is not held here"))
    rig.settle()
    assert rig.coordinator.states[-1] is TaskState.NEEDS_MASK
    rig.training(0, blob=b"carries")
    assert len(rig.workers) == 2


def test_what_a_run_suffers_for_want_of_memory_is_said_once_and_with_each_task(rig, caplog):
    with caplog.at_level(logging.INFO):
        for step in range(3):
            rig.training(step, blob=b"task %d" % step)
            rig.worker.events.append(Planned(chosen(1, 4, 0.5)))
            rig.worker.finish()
            rig.settle()
            rig.coordinator.verdict(step)
            rig.settle()
    words = "micro-batch 4, 50% of activations kept in fp32"
    (said,) = [record.getMessage() for record in caplog.records if words in record.getMessage()]
    assert said == f"run r step 0: {words}, for this board has no memory for more"
    results = rig.coordinator.of(ResultOffer)
    assert {offer.step for offer in results} == {0, 1, 2}
    assert {offer.levers for offer in results} == {words}


def test_a_result_says_what_its_task_started_from(rig):
    offer = rig.training(0)
    rig.worker.finish()
    rig.settle()
    (result,) = rig.coordinator.of(ResultOffer)
    assert result.base == offer.base == BASE


def test_a_plan_that_gives_nothing_up_says_so(rig):
    rig.training(0)
    rig.worker.events.append(Planned(chosen(0, 0)))
    rig.worker.finish()
    rig.settle()
    assert {offer.levers for offer in rig.coordinator.of(ResultOffer)} == {""}


def test_a_board_that_lacks_the_runs_method_declines_and_takes_the_next_run(rig):
    rig.training(0)
    rig.worker.events.append(Unfit("Unavailable", "method 'acme' is unknown; install that one"))
    rig.settle()
    status = rig.coordinator.of(TaskStatus)[-1]
    assert (status.state, status.reason) == (TaskState.UNFIT, "method 'acme' is unknown; install that one")
    assert not rig.governor.limits(SPEC).refusal, "nothing was learned about memory"
    rig.training(0, run="another")
    assert rig.coordinator.states[-1] is TaskState.RUNNING


def test_a_loss_that_is_no_number_is_progress_all_the_same(rig):
    rig.training(0)
    rig.worker.events.append(StepsDone(3, 9, None))
    rig.settle(1.5)
    status = rig.coordinator.of(TaskStatus)[-1]
    assert (status.local_steps_done, status.loss) == (3, None)


def test_what_a_worker_left_half_written_goes_with_its_task(rig):
    rig.training()
    left = rig.state / "work" / ".result.blob.x1.tmp"
    left.write_bytes(b"half")
    rig.worker.events.append(TaskFailed("WorkerDied", "killed"))
    rig.settle()
    assert not left.exists()
