from __future__ import annotations

import pytest

from tests.edge_agent.rig import Rig
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import Enrolment, TaskCancel, TaskState, TaskStatus, encode
from tinyfleet.fedcore.protocol.transport import Received


def test_an_agent_that_is_not_accepted_takes_no_task(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    for enrolment in (Enrolment.PENDING, Enrolment.REJECTED):
        rig.coordinator.welcome(enrolment)
        rig.coordinator.offer()
        rig.settle()
        assert rig.coordinator.of(TaskStatus)[-1].state is TaskState.DECLINED
        assert enrolment.value in rig.coordinator.of(TaskStatus)[-1].reason
    assert not rig.workers


def test_a_board_without_an_engine_says_so(tmp_path):
    rig = Rig(tmp_path, engines=())
    rig.accepted()
    rig.coordinator.offer()
    rig.settle()
    assert "no training engine" in rig.coordinator.of(TaskStatus)[-1].reason


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"\xff\x00", b'{"type":"welcome"}', b'{"type":"hello"}', b"[" * 90000]
)
def test_garbage_is_dropped(rig, payload):
    rig.coordinator.transport.publish(topics.down("porch"), payload)
    rig.coordinator.transport.publish(topics.down_chunk("porch"), payload)
    rig.settle()
    rig.training()


def test_topics_of_others_are_ignored(rig):
    """A broker without access rules, or one that leaks, may deliver anything."""
    rig.agent.handle(Received(topics.down("other"), encode(TaskCancel("r", 0))))
    rig.training()
    rig.agent.handle(Received(topics.down("other"), encode(TaskCancel("r", 0))))
    rig.agent.handle(Received(topics.up("porch"), encode(TaskCancel("r", 0))))
    assert not rig.worker.closed
