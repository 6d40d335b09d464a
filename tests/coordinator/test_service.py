"""A whole run over the loop transport, and what happens to it from outside."""

from __future__ import annotations

import itertools

import pytest

from tests.coordinator.toy import create_toy, toy_spec
from tests.coordinator.toy_fleet import expected_state, hold_back, seen
from tinyfleet.coordinator.service import QUIET_S
from tinyfleet.coordinator.status import read_status
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import ResultVerdict, RunEnded, Verdict
from tinyfleet.fedcore.protocol.reach.causes import CauseKind


def test_a_run_from_submission_to_its_end(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, row.step, row.round, row.rounds) == ("finished", 3, 3, 3)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    steps = fleet.store.steps.of(run)
    assert [(s.step, s.stage, s.state, s.expected, s.results, s.lost) for s in steps] == [
        (step, "train", "finished", 3, 3, []) for step in range(3)
    ]
    assert all(step.loss == pytest.approx(0.5) and step.density == pytest.approx(0.3, abs=1e-3) for step in steps)
    assert [step.test_accuracy for step in steps] == [0.9] * 3
    assert fleet.engine.evaluated == [0, 1, 2]
    assert [(s.bytes_up, s.bytes_down) for s in steps] == [(1000.0, 2000.0)] * 3
    tasks = fleet.store.tasks.of(run)
    assert {(t.state, t.train_s, t.peak_rss_bytes, t.engine) for t in tasks} == {
        ("stored", 0.5, 50_000_000, "torch")
    }
    for agent in fleet.agents.values():
        assert [message.run for message in seen(agent, RunEnded)] == [run]
        assert {message.verdict for message in seen(agent, ResultVerdict)} == {Verdict.STORED}


@pytest.mark.parametrize("order", list(itertools.permutations(["board-0", "board-1", "board-2"])))
def test_any_order_of_arrival_gives_the_same_bytes(fleet, order):
    spec = toy_spec(rounds=1)
    hold_back(fleet, *order)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    for name in order:
        fleet.agents[name].offer_results()
        fleet.turn()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, order)


def test_the_broker_goes_away_and_comes_back(fleet):
    spec = toy_spec(rounds=2)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.broker.stop()
    for agent in fleet.agents.values():
        agent.silent = True
    fleet.sleep(40)  # longer than heartbeats and grace: nobody is to blame
    assert fleet.store.runs.get(run).state == "running"
    fleet.broker.start()
    for agent in fleet.agents.values():
        agent.silent = agent.holds_results = False
        agent.hello()
        agent.offer_results()
    fleet.sleep(2)
    assert fleet.store.runs.get(run).state == "finished"
    assert [step.lost for step in fleet.store.steps.of(run)] == [[], []]
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_noise_on_the_wire_is_ignored(fleet):
    from tinyfleet.fedcore.protocol import topics

    spec = toy_spec(rounds=1)
    agent = fleet.agents["board-0"]
    for payload in (b"", b"{", b"[]", b'{"type": "hello"}', b"\xff" * 100, b"x" * 70000):
        for topic in (topics.up("board-0"), topics.up_chunk("board-0"), topics.up("stranger")):
            agent.transport.publish(topic, payload)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


@pytest.mark.slow
def test_the_disk_stays_bounded(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=12))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    blobs = [path for path in fleet.store.blobs.directory.rglob("*") if path.is_file()]
    assert blobs == [fleet.store.state_blob(run)]
    assert not [path for path in fleet.store.incoming.rglob("*") if path.is_file()]
    assert not list(fleet.store.directory.glob("initial-*"))


def test_overhead_is_wall_time_without_the_slowest_training(fleet):
    def slow(agent, offer, task):
        fleet.clock.now += 4.0
        result = create_toy(toy_spec()).answer(task, agent.device)
        blob = codec.encode(result, precision="fp32", send_mask=False)
        agent.put_result(offer, blob, train_s=3.0)

    fleet.agents["board-0"].behaviour = slow
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    (step,) = fleet.store.steps.of(run)
    assert step.duration_s == pytest.approx(4.0)
    assert step.overhead_s == pytest.approx(1.0)


def told(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelname == level]


def test_a_fleet_that_nobody_hears_of_is_told(fleet, caplog):
    caplog.set_level("INFO")
    for agent in fleet.agents.values():
        agent.silent = True
    fleet.sleep(QUIET_S + 1)
    (warning,) = told(caplog, "WARNING")
    assert "no device is heard of; see whether the boards' agents run" in warning
    status = read_status(fleet.directory / "state")
    assert (status.running, status.connected, status.trouble.kind) == (True, True, CauseKind.DEVICES)
    assert status.trouble.reason in warning
    fleet.sleep(60)
    for agent in fleet.agents.values():
        agent.silent = False
    fleet.hello()
    assert told(caplog, "WARNING") == [warning]
    assert "devices are heard of again, after 60 s" in told(caplog, "INFO")
    assert read_status(fleet.directory / "state").trouble is None


def test_why_there_is_no_broker_stands_in_log_and_status(fleet, caplog):
    caplog.set_level("INFO")
    fleet.hello()
    fleet.broker.stop()
    fleet.sleep(20)
    assert told(caplog, "WARNING") == ["broker broker stopped"]
    status = read_status(fleet.directory / "state")
    assert (status.connected, status.trouble.kind) == (False, CauseKind.LOST)
    fleet.broker.start()
    fleet.hello()
    assert [line for line in told(caplog, "INFO") if "again" in line] == ["the broker is reached again, after 19 s"]
    fleet.service.close()
    assert not read_status(fleet.directory / "state").running
