"""Results that must not count, or must not count twice."""

from __future__ import annotations

import numpy as np
import pytest

from tests.coordinator.toy import create_toy, toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back, seen
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec, topics
from tinyfleet.fedcore.protocol.chunks import pack_chunk, unpack_chunk
from tinyfleet.fedcore.protocol.loop import LoopTransport
from tinyfleet.fedcore.protocol.messages import ResultOffer, ResultVerdict, TaskState, TaskStatus, Verdict


def bad_results(task, device):
    """What a broken or hostile device may send, and what the refusal says."""
    spec = toy_spec()
    good = create_toy(spec).answer(task, device)

    def variant(**meta):
        return codec.encode(
            Payload({**good.meta, **meta}, good.params, good.mask), precision="fp32", send_mask=False
        )

    def params(**changed):
        changed_result = Payload(good.meta, {**good.params, **changed}, good.mask)
        return codec.encode(changed_result, precision="fp32", send_mask=False)

    yield b"no blob at all", "cannot be decoded"
    yield variant()[:-40], "cannot be decoded"
    yield variant(step=99), "step 99"
    yield variant(samples=0), "samples"
    yield variant(loss="high"), "loss"
    yield params(extra=np.zeros(3, np.float32)), "wrong arrays"
    yield params(**{"first.weight": np.zeros((2, 2), np.float32)}), "shape"
    yield params(**{"first.weight": np.full_like(good.params["first.weight"], np.float32(1e30))}), "overflows"


@pytest.mark.parametrize("case", range(8))
def test_a_bad_result_is_refused_with_a_reason_and_changes_nothing(fleet, case):
    told = {}

    def misbehave(agent, offer, task):
        blob, told["reason"] = list(bad_results(task, agent.device))[case]
        agent.put_result(offer, blob)

    fleet.agents["board-1"].behaviour = misbehave
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    verdict = seen(fleet.agents["board-1"], ResultVerdict)[-1]
    assert verdict.verdict is Verdict.REFUSED
    assert told["reason"] in verdict.reason
    (step,) = fleet.store.steps.of(run)
    assert step.lost[0]["device"] == "board-1"
    assert told["reason"] in step.lost[0]["reason"]
    assert fleet.store.tasks.of(run)[1].state == "refused"
    assert fleet.state_bytes(run) == expected_state(spec, ["board-0", "board-2"])


def test_a_result_that_is_offered_twice_counts_once(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    agent = fleet.agents["board-0"]
    held = dict(agent.outbox)
    agent.offer_results()
    agent.offer_results()
    fleet.turn()
    agent.outbox = held
    agent.offer_results()
    fleet.turn()
    assert [m.verdict for m in seen(agent, ResultVerdict)] == [Verdict.STORED, Verdict.DUPLICATE]
    assert fleet.counted() == 1
    for name in ("board-1", "board-2"):
        fleet.agents[name].offer_results()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_result_of_an_unknown_run_is_neither_taken_nor_refused(fleet, caplog):
    fleet.hello()
    agent = fleet.agents["board-0"]
    path = fleet.directory / "x"
    path.write_bytes(b"x")
    from tinyfleet.fedcore.protocol.chunks import manifest_of

    before = len(agent.seen)
    for _ in range(3):
        agent.say(ResultOffer("no-such-run", 0, manifest_of(path, 1000), 1.0, 1.0, 1, "torch", "0" * 64))
        agent.say(TaskStatus("no-such-run", 0, TaskState.RUNNING))
        fleet.turn()
    assert agent.seen[before:] == []
    assert caplog.text.count("no-such-run") == 1


def test_an_oversized_result_is_refused_unread(tmp_path):
    fleet = Fleet(tmp_path, max_result_bytes=1000)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "failed"
    assert {task.state for task in fleet.store.tasks.of(run)} == {"refused"}
    assert "at most 1000" in fleet.store.tasks.of(run)[0].reason
    fleet.service.close()


@pytest.mark.parametrize("for_good", [False, True])
def test_a_result_that_keeps_arriving_damaged_is_done_again(fleet, for_good):
    spec = toy_spec(rounds=1, max_retries=3)
    run = fleet.store.runs.submit(spec)
    agent = fleet.agents["board-1"]

    def damaged(agent, offer, task):
        """The board's disk turns a bit over after the result was described."""
        agent.train(offer, task)
        path = agent.outbox[offer.run, offer.step][1]
        path.write_bytes(b"\xff" + path.read_bytes()[1:])
        if not for_good:
            agent.behaviour = None

    agent.behaviour = damaged
    fleet.hello()
    for _ in range(10):
        fleet.sleep(3)
        agent.offer_results()
    assert not [message for message in seen(agent, ResultVerdict) if message.verdict is Verdict.REFUSED]
    tries = agent.trained
    row = fleet.store.runs.get(run)
    assert row.state == "finished"
    if for_good:
        assert tries == 4, "as often as its tries allow"
        (lost,) = fleet.store.steps.of(run)[0].lost
        assert lost == {"device": "board-1", "reason": "failed: its result was damaged on disk"}
        assert fleet.state_bytes(run) == expected_state(spec, ["board-0", "board-2"])
    else:
        assert tries == 2
        assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_chunks_of_a_stranger_cost_a_device_time_and_no_result(fleet):
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    agent, stranger = fleet.agents["board-1"], LoopTransport(fleet.broker, "stranger")
    stranger.open(())
    publish, left = agent.transport.publish, [10]

    def overtaken(topic, payload):
        if topic == topics.up_chunk("board-1") and left[0]:
            left[0] -= 1
            chunk = unpack_chunk(payload)
            stranger.publish(topic, pack_chunk(chunk.sha256, chunk.index, bytes(len(chunk.data))))
        publish(topic, payload)

    agent.transport.publish = overtaken
    fleet.hello()
    for _ in range(40):
        fleet.sleep(1)
        agent.offer_results()
    assert left == [0]
    assert [message.verdict for message in seen(agent, ResultVerdict)] == [Verdict.STORED]
    assert agent.trained == 1
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
