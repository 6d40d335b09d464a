"""A lease that runs out ends work that nobody waits for, and no other."""

from __future__ import annotations

import pytest

from tests.edge_agent.rig import IDENTITY
from tinyfleet.edge_agent.states import AssignmentState
from tinyfleet.edge_agent.task.lease import SLACK_S, Lease
from tinyfleet.fedcore.protocol.messages import LeaseExtended, ResultOffer, TaskState, TaskStatus


def test_a_lease_that_was_not_extended_ends_the_training(rig):
    rig.training(lease_s=60.0)
    rig.settle(59.0)
    rig.settle(SLACK_S)
    assert rig.agent.assignment.state is AssignmentState.TRAINING, "there is slack"
    rig.settle(1.0 + 2 * SLACK_S)
    assert rig.agent.assignment.state is AssignmentState.IDLE
    assert rig.worker.closed
    last = rig.coordinator.of(TaskStatus)[-1]
    assert (last.state, last.reason) == (
        TaskState.FAILED,
        "its lease has run out, and the coordinator has not extended it",
    )


def test_whoever_waits_extends_it(rig):
    rig.training(lease_s=60.0)
    for _ in range(5):
        rig.settle(58.0)
        rig.coordinator.say(LeaseExtended("r", 0, 60.0))
        rig.coordinator.say(LeaseExtended("r", 1, 0.0))
        rig.settle()
    assert rig.agent.assignment.state is AssignmentState.TRAINING
    rig.settle(59.0)
    assert rig.agent.assignment.state is AssignmentState.TRAINING
    rig.settle(1.0 + 2 * SLACK_S)
    assert rig.agent.assignment.state is AssignmentState.IDLE


def test_without_a_connection_training_goes_on_and_the_result_is_offered_later(rig):
    rig.training(lease_s=60.0)
    rig.broker.drop(IDENTITY.client_id)
    rig.settle(10_000.0)
    assert rig.agent.assignment.state is AssignmentState.TRAINING
    rig.broker.restore(IDENTITY.client_id)
    rig.settle()
    rig.settle(SLACK_S - 1.0)
    assert rig.agent.assignment.state is AssignmentState.TRAINING, "the coordinator has time to say that it waits"
    rig.worker.finish()
    rig.settle()
    assert rig.coordinator.of(ResultOffer)


def test_back_on_a_connection_a_lease_that_is_not_extended_ends_the_training(rig):
    rig.training(lease_s=60.0)
    rig.broker.drop(IDENTITY.client_id)
    rig.settle(10_000.0)
    rig.broker.restore(IDENTITY.client_id)
    rig.settle()
    rig.settle(2 * SLACK_S)
    assert rig.agent.assignment.state is AssignmentState.IDLE


@pytest.mark.parametrize("lease_s", [5.0, 600.0, 86_400.0])
def test_boards_end_theirs_apart(lease_s):
    ends = []
    for number in range(50):
        lease = Lease(f"board-{number}", lease_s, 0.0)
        step = max(SLACK_S, 0.1 * lease_s) / 100
        ends.append(next(n for n in range(1000) if lease.ends_work(lease_s + n * step, 0.0)))
    assert min(ends) >= 100
    assert max(ends) <= 201
    assert max(ends) - min(ends) > 70
