"""Something dies in the middle of a run: the run ends properly, and says what it lost."""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import Running, spec_of
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROUNDS = 4
SLOW = "torch"  # a task lasts long enough for something to happen in the middle of it


def losses(running: Running, run: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for step in running.store.steps.of(run):
        for loss in step.lost:
            found.setdefault(loss["device"], []).append(loss["reason"])
    return found


def check_finished(running: Running, run: str) -> None:
    row = running.until("the run's end", lambda: running.ended(run), 180.0)
    assert (row.state, row.reason) == ("finished", "")
    assert row.round == ROUNDS
    last = running.store.steps.of(run)[-1]
    assert last.test_accuracy is not None
    assert last.test_accuracy > 0.2  # 10 classes
    assert running.store.state_blob(run) is not None


def test_a_worker_is_killed(start):
    spec = spec_of(3, ROUNDS, epochs=15)
    running = start(spec, 3, engine=SLOW)
    run = running.store.runs.submit(spec)
    task = running.until("agent-1 trains", lambda: running.training_task(run, "agent-1", after_round=1))
    agent_pid = running.fleet.pids["agent-1"]
    running.until("its worker", lambda: running.worker_of("agent-1")).kill()
    check_finished(running, run)
    assert running.fleet.pids["agent-1"] == agent_pid
    (retold,) = [t for t in running.store.tasks.of(run) if (t.step, t.device) == (task.step, "agent-1")]
    # The task was given out again, and its second try counted.
    assert retold.retries >= 1
    assert retold.state == "stored"
    assert losses(running, run) == {}


def test_a_whole_agent_is_killed(start):
    spec = spec_of(3, ROUNDS, epochs=15)
    running = start(spec, 3, engine=SLOW)
    run = running.store.runs.submit(spec)
    task = running.until("agent-2 trains", lambda: running.training_task(run, "agent-2", after_round=1))
    worker = running.until("its worker", lambda: running.worker_of("agent-2"))
    running.fleet.kill("agent-2")
    assert running.fleet.check() == ["agent-2"]
    assert "SIGKILL" in running.fleet.obituary("agent-2")
    check_finished(running, run)
    worker.wait(PATIENCE_S)  # it dies with its supervisor
    assert set(losses(running, run)) == {"agent-2"}
    (lost,) = [t for t in running.store.tasks.of(run) if (t.step, t.device) == (task.step, "agent-2")]
    assert lost.state == "lost"
    after = [step for step in running.store.steps.of(run) if step.step > task.step]
    assert after
    assert all((step.expected, step.results) == (2, 2) for step in after)


def test_a_killed_agent_comes_back(start):
    spec = spec_of(2, ROUNDS, epochs=15, grace_s=30.0)
    running = start(spec, 2, engine=SLOW)
    run = running.store.runs.submit(spec)
    running.until("agent-0 trains", lambda: running.training_task(run, "agent-0", after_round=1))
    identity = running.store.devices.all()[0].device
    running.fleet.kill("agent-0")
    running.fleet.start_agent("agent-0")
    check_finished(running, run)
    assert [d.device for d in running.store.devices.all()] == [identity, "agent-1"]
    assert losses(running, run) == {}
    assert all(step.results == 2 for step in running.store.steps.of(run))


@pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed")
def test_the_broker_is_away_for_ten_seconds(start):
    spec = spec_of(2, ROUNDS, epochs=15, grace_s=30.0)
    running = start(spec, 2, broker="mosquitto", engine=SLOW)
    run = running.store.runs.submit(spec)
    running.until("agent-0 trains", lambda: running.training_task(run, "agent-0", after_round=1))
    running.fleet.stop_broker()
    assert not running.fleet.broker_answers()
    time.sleep(10.0)
    assert running.fleet.check() == []
    running.fleet.restart_broker()
    check_finished(running, run)
    # Reconnecting waits a random time: a step may have gone on without a device, and then says so.
    for step in running.store.steps.of(run):
        assert step.results >= 1
        assert step.results + len(step.lost) == step.expected
    assert {reason for reasons in losses(running, run).values() for reason in reasons} <= {"offline"}
    running.until("both are back", lambda: all(device.online for device in running.store.devices.all()))
