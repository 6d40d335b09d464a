from __future__ import annotations

import pytest

from tests.edge_agent.rig import Rig
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import Enrolment, Heartbeat, TaskCancel, TaskState, TaskStatus, encode
from tinyfleet.fedcore.protocol.transport import Received


def test_an_agent_that_is_not_accepted_takes_no_task(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    rig.coordinator.offer()
    rig.settle()
    assert not rig.coordinator.of(TaskStatus)
    rig.accepted()
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


OFFER = (
    b'{"type":"task_offer","run":"hostile","step":0,"stage":"train","lease_s":60.0,"manifest":{"sha256":"%s",'
    b'"size":100,"chunk_size":100},"spec":%s}'
)
DEEP = b"[" * 940 + b"]" * 940
LARGE = b"1" + b"0" * 4000


@pytest.mark.parametrize(
    "spec",
    [
        b'{"method":{"name":' + DEEP + b"}}",
        b'{"method":{"name":"fedavg","density":' + LARGE + b"}}",
        b'{"model":{"input_shape":[' + LARGE + b",1,1]}}",
        b'{"model":{"arguments":{"width":' + LARGE + b"}}}",
        b'{"training":{"batch":' + LARGE + b"}}",
        b'{"name":"' + b"x" * 5000 + b'"}',
        b'{"method":{"name":["' + b'","'.join([b"x"] * 6000) + b'"]}}',
    ],
    ids=["deep", "density", "shape", "width", "batch", "long", "many"],
)
def test_a_hostile_offer_is_declined_or_dropped_and_the_next_is_taken(rig, spec):
    rig.accepted()
    rig.coordinator.say(OFFER % (b"0" * 64, spec))
    rig.settle()
    assert all(said.state is TaskState.DECLINED for said in rig.coordinator.of(TaskStatus))
    assert not rig.workers
    rig.training()


def test_an_offer_that_breaks_the_agent_is_declined_with_the_reason(rig, monkeypatch):
    def broken(*_):
        raise RuntimeError("a defect")

    rig.accepted()
    with monkeypatch.context() as patch:
        patch.setattr(rig.agent.assignment, "offered", broken)
        rig.coordinator.offer()
        rig.settle()
    said = rig.coordinator.of(TaskStatus)[-1]
    assert (said.state, "a defect" in said.reason) == (TaskState.DECLINED, True)
    with monkeypatch.context() as patch:
        patch.setattr(rig.agent.assignment, "cancelled", broken)
        rig.coordinator.say(TaskCancel("r", 0))
        rig.settle()
    rig.training()


def test_heartbeats_have_a_floor_whatever_the_coordinator_wants(rig):
    rig.coordinator.welcome(heartbeat_s=1e-300)
    rig.settle()
    before = len(rig.coordinator.of(Heartbeat))
    for _ in range(100):
        rig.settle(0.1)
    assert 10 <= len(rig.coordinator.of(Heartbeat)) - before <= 21
