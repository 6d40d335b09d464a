"""A fleet whose coordinator sees sums alone, over a real broker, with processes killed on the way."""

from __future__ import annotations

import msgspec
import pytest

from tests.e2e.conftest import Running, spec_of
from tinyfleet.fedcore.methods.summing.phases import taken_apart
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import RunSpec, SecureAggregationSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import simulate

ENDS = 180.0


def plain_spec(agents: int, rounds: int, **changes: float) -> RunSpec:
    fleet = {"norm_limit": 0.0, "influence_limit": 0.0, "min_results": 3, "deadline_s": 150.0, **changes}
    return spec_of(agents, rounds, **fleet)


def secure(spec: RunSpec) -> RunSpec:
    return msgspec.structs.replace(spec, secure_aggregation=SecureAggregationSettings(True))


def finished(running: Running, run: str) -> Payload:
    """The method's own last state."""
    row = running.until("the run's end", lambda: running.ended(run), ENDS)
    assert (row.state, row.reason) == ("finished", "")
    return taken_apart(decode(running.store.state_blob(run).read_bytes())).inner


def open_phase(running: Running, run: str, phase: str, round_: int = 0) -> int | None:
    """The open step, where it is of that phase of a training round."""
    steps = running.store.steps.of(run)
    last = steps[-1] if steps else None
    fits = last is not None and last.finished is None and last.stage == f"train: {phase}" and last.round >= round_
    return last.step if fits else None


@pytest.mark.slow
def test_a_live_run_is_the_plain_one_bit_for_bit(start):
    spec = plain_spec(3, 2)
    running = start(spec, 3)
    run = running.store.runs.submit(secure(spec))
    live = finished(running, run)
    plain = simulate(spec, create())
    assert encode(live, precision="fp32") == encode(plain, precision="fp32")
    steps = running.store.steps.of(run)
    assert [step.stage.rpartition(": ")[2] for step in steps] == ["keys", "shares", "results", "unmask"] * 4
    assert all(step.results == 3 and not step.lost for step in steps)
    rounds = [step for step in steps if step.stage == "train: unmask"]
    assert all(step.test_accuracy is not None for step in rounds)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_agent_is_killed_while_its_masks_are_in_all_vectors(start):
    spec = plain_spec(4, 3)
    running = start(spec, 4, engine="torch")
    run = running.store.runs.submit(secure(spec))
    step = running.until("results of round 2", lambda: open_phase(running, run, "results", round_=1), ENDS)
    running.fleet.kill("agent-3")
    finished(running, run)
    steps = {one.step: one for one in running.store.steps.of(run)}
    # It was lost with its masks dealt, or had sent its vector by then: either way the sum came off.
    assert steps[step + 1].stage == "train: unmask"
    assert [one.stage for one in steps.values()].count("train: keys") == 3
    lost = {entry["device"] for one in steps.values() for entry in one.lost}
    assert lost == {"agent-3"}
    assert steps[max(steps)].results == 3


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed")
def test_the_coordinator_is_killed_in_every_phase(start):
    """Nothing is lost, no key is used twice: the run is the plain one to the bit."""
    spec = plain_spec(3, 2, grace_s=30.0)
    running = start(spec, 3, broker="mosquitto")
    run = running.store.runs.submit(secure(spec))
    for phase in ("keys", "shares", "results", "unmask"):
        running.until(phase, lambda phase=phase: open_phase(running, run, phase), ENDS)
        running.fleet.kill("coordinator")
        running.fleet._start_coordinator(["--broker", running.fleet.broker_url])
    live = finished(running, run)
    assert encode(live, precision="fp32") == encode(simulate(spec, create()), precision="fp32")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_too_few_survivors_begin_anew_with_fresh_keys(start):
    """Three of five die with their masks dealt: the two that are left reveal nothing, and the step is repeated."""
    spec = plain_spec(5, 2, min_results=3, grace_s=4.0)
    running = start(spec, 5, engine="torch")
    run = running.store.runs.submit(secure(spec))
    running.until("results of round 2", lambda: open_phase(running, run, "results", round_=1), ENDS)
    for agent in ("agent-2", "agent-3", "agent-4"):
        running.fleet.kill(agent)
    log = running.fleet.log_of("coordinator")
    running.until("fresh keys", lambda: "begun anew with fresh keys" in log.read_text(), ENDS)
    for agent in ("agent-2", "agent-3", "agent-4"):
        running.fleet.start_agent(agent)
    finished(running, run)
    stages = [step.stage for step in running.store.steps.of(run) if step.round == 1]
    assert stages[:4] == ["train: keys", "train: shares", "train: results", "train: keys"]
