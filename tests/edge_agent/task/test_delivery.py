from __future__ import annotations

import pytest

from tinyfleet.edge_agent.state_directory import STATUS
from tinyfleet.edge_agent.status import read
from tinyfleet.edge_agent.task.delivery import REOFFER_S
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Hello,
    ResultOffer,
    ResultVerdict,
    TaskState,
    TaskStatus,
    Verdict,
)


def test_results_are_offered_until_a_verdict_comes(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    for _ in range(3):
        rig.settle(REOFFER_S + 0.1)
    assert len(rig.coordinator.of(ResultOffer)) == 4
    rig.coordinator.verdict(verdict=Verdict.REFUSED)
    rig.settle()
    rig.settle(REOFFER_S + 0.1)
    assert len(rig.coordinator.of(ResultOffer)) == 4
    assert TaskState.ACKNOWLEDGED not in rig.coordinator.states


def test_a_result_outlives_the_agent(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    first = rig.agent.session
    rig.transport.close()  # kill -9: no goodbye
    rig.start()
    rig.settle()
    hello = rig.coordinator.of(Hello)[-1]
    assert hello.session != first
    assert hello.task == ("r", 0)
    assert rig.coordinator.of(ResultOffer)[-1].step == 0


def test_a_verdict_that_comes_twice_is_nothing(rig):
    rig.training()
    rig.worker.finish()
    rig.settle()
    rig.coordinator.verdict()
    rig.coordinator.verdict(verdict=Verdict.DUPLICATE)
    rig.coordinator.verdict(step=9)
    rig.settle()
    assert rig.coordinator.states.count(TaskState.ACKNOWLEDGED) == 1


def test_traffic_is_charged_to_its_task(rig):
    for step, size in enumerate((400_000, 1000)):
        rig.training(step, blob=bytes([step]) * size)
        rig.worker.finish(bytes([step]) * 2000)
        rig.settle()
        rig.coordinator.verdict(step)
        rig.settle()
    first, second = [status for status in rig.coordinator.of(TaskStatus) if status.state is TaskState.ACKNOWLEDGED]
    assert first.traffic.received >= 400_000
    assert 1000 <= second.traffic.received < 50_000
    total = rig.transport.bytes_received
    assert first.traffic.received + second.traffic.received <= total


def test_a_result_that_was_stored_may_be_refused_when_its_step_closes(rig, caplog):
    rig.training()
    rig.worker.finish()
    rig.settle()
    rig.coordinator.verdict()
    rig.settle()
    for _ in range(2):
        rig.coordinator.say(ResultVerdict("r", 0, Verdict.REFUSED, "the norm of its update is 1e+06"))
        rig.settle()
    told = [record.message for record in caplog.records if "refused" in record.message]
    assert told == ["run r step 0: result refused (the norm of its update is 1e+06)"]
    assert read(rig.state / STATUS).refused == told[0]


def test_a_result_travels_in_chunks_that_the_broker_takes(rig):
    rig.training()
    rig.worker.finish(bytes(20_000))
    rig.transport.payload_bytes = lambda topic: 5000
    rig.settle()
    (offer,) = rig.coordinator.of(ResultOffer)
    assert offer.manifest.chunk_size < 5000
    rig.coordinator.say(ChunkRequest(offer.manifest.sha256, 0, offer.manifest.count))
    rig.settle()
    assert sorted(rig.coordinator.chunks) == list(range(offer.manifest.count))
    assert b"".join(rig.coordinator.chunks[index] for index in range(offer.manifest.count)) == bytes(20_000)
    rig.transport.payload_bytes = lambda topic: None
    rig.settle(REOFFER_S + 0.1)
    assert rig.coordinator.of(ResultOffer)[-1].manifest.chunk_size > offer.manifest.chunk_size


@pytest.mark.parametrize("damaged", [False, True])
def test_a_result_that_is_asked_for_all_over_again_goes_only_where_it_is_damaged_here(rig, damaged):
    rig.training()
    rig.worker.finish(b"whole")
    rig.settle()
    manifest = rig.coordinator.of(ResultOffer)[-1].manifest
    for path in (rig.state / "outbox").glob("*.blob"):
        path.write_bytes(b"whale" if damaged else b"whole")
    for _ in range(3):
        rig.coordinator.chunks.clear()
        rig.coordinator.say(ChunkRequest(manifest.sha256, 0, 1))
        rig.settle()
    assert rig.coordinator.chunks == ({} if damaged else {0: b"whole"})
    failed = [status.reason for status in rig.coordinator.of(TaskStatus) if status.state is TaskState.FAILED]
    assert failed == (["its result was damaged on disk"] if damaged else [])
