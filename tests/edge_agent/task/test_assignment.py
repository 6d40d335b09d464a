"""One task through the whole agent, its worker a script."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.edge_agent.rig import SPEC
from tinyfleet.edge_agent.states import AssignmentState
from tinyfleet.edge_agent.worker.commands import StepsDone
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    ResultOffer,
    RunEnded,
    TaskCancel,
    TaskState,
    TaskStatus,
)
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec, TrainingSettings


def test_a_task_from_offer_to_acknowledgement(rig):
    blob = bytes(range(256)) * 2000  # several chunks
    rig.training(blob=blob)
    command = rig.worker.task
    assert Path(command.blob).read_bytes() == blob
    assert (command.device, command.first_way, command.spec["name"]) == ("porch", 0, "run")
    assert command.target_bytes == 92_000_000
    rig.worker.events.append(StepsDone(3, 9, 0.5))
    rig.settle(1.5)
    running = [status for status in rig.coordinator.of(TaskStatus) if status.local_steps_done == 3]
    assert (running[0].local_steps_total, running[0].loss) == (9, 0.5)
    rig.worker.finish(b"R" * 150_000)
    rig.settle(0.5)
    assert rig.coordinator.states == [TaskState.ACCEPTED, TaskState.RUNNING, TaskState.RUNNING, TaskState.FINISHED]
    offer = rig.coordinator.of(ResultOffer)[-1]
    assert (offer.train_s, offer.task_s, offer.peak_rss_bytes, offer.engine) == (1.5, 2.0, 123, "torch")
    rig.coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
    rig.settle()
    assert b"".join(rig.coordinator.chunks[i] for i in sorted(rig.coordinator.chunks)) == b"R" * 150_000
    rig.coordinator.verdict()
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert last.state is TaskState.ACKNOWLEDGED
    assert rig.outbox.offers() == []
    assert rig.worker.closed, "policy fresh"


def test_an_offer_that_is_repeated_starts_nothing_twice(rig):
    rig.training()
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert rig.coordinator.states[-1] is TaskState.RUNNING
    rig.worker.finish()
    rig.settle()
    rig.coordinator.offer(0)
    rig.settle()
    assert len(rig.workers) == 1
    assert len(rig.coordinator.of(ResultOffer)) == 2, "the waiting result is offered instead"


def test_busy_is_said(rig):
    rig.training(run="one")
    rig.coordinator.offer(run="two")
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert (last.run, last.state) == ("two", TaskState.DECLINED)
    assert "busy with run one" in last.reason
    assert not rig.worker.closed


def test_a_newer_step_replaces_a_task_that_became_worthless(rig):
    rig.training(0)
    rig.training(1, blob=b"newer")
    assert rig.workers[0].closed
    assert rig.agent.assignment.state is AssignmentState.TRAINING
    tolerant = RunSpec(method=SPEC.method, training=TrainingSettings(batch=8), fleet=FleetSettings(staleness=5))
    rig.coordinator.say(TaskCancel("r", 1))
    rig.settle()
    rig.training(3, spec=tolerant)
    rig.coordinator.offer(4, b"next", spec=tolerant)
    rig.settle()
    assert rig.agent.assignment.key == ("r", 3), "its result still counts"
    assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED


def test_cancel_ends_the_worker_and_drops_the_result(rig):
    rig.training(0)
    rig.coordinator.say(TaskCancel("r", 7, "another step"))
    rig.settle()
    assert not rig.worker.closed
    rig.coordinator.say(TaskCancel("r", 0, "the round is over"))
    rig.settle()
    assert rig.worker.closed
    rig.training(1, blob=b"b")
    rig.worker.finish()
    rig.settle()
    assert rig.outbox.offers()
    rig.coordinator.say(TaskCancel("r", 1))
    rig.settle()
    assert rig.outbox.offers() == []


def test_a_run_that_ended_leaves_no_worker_and_no_masks(warm_rig):
    rig = warm_rig
    rig.training(0)
    masks = rig.worker.task.masks
    assert Path(masks).is_dir()
    rig.worker.finish()
    rig.settle()
    assert not rig.worker.closed
    rig.training(1, blob=b"second")
    assert len(rig.workers) == 1, "warm: the same process"
    rig.worker.finish()
    rig.settle()
    rig.coordinator.say(RunEnded("r"))
    rig.settle()
    assert rig.worker.closed
    assert not Path(masks).exists()


def test_a_spec_that_is_none_can_never_be_done(rig):
    offer = rig.coordinator.offer(0)
    rig.settle()
    rig.coordinator.say(TaskCancel("r", 0))
    rig.settle()
    rig.coordinator.say(msgspec.structs.replace(offer, spec={"seeds": 3}))
    rig.settle()
    last = rig.coordinator.of(TaskStatus)[-1]
    assert last.state is TaskState.UNFIT
    assert "seed" in last.reason
