"""A hostile device among honest ones: what counts, what it is told, and when it is left out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, seen
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import ResultVerdict, Verdict


def exaggerate(agent, offer, task):
    """The honest update, a hundred thousand times."""
    answer = create_toy(toy_spec()).answer(task, agent.device)
    params = {n: task.params[n] + np.float32(1e5) * (v - task.params[n]) for n, v in answer.params.items()}
    blob = codec.encode(Payload(answer.meta, params, answer.mask), precision="fp32", send_mask=False)
    agent.put_result(offer, blob)


@pytest.fixture
def five(tmp_path):
    fleet = Fleet(tmp_path, devices=5)
    fleet.agents["board-1"].behaviour = exaggerate
    yield fleet
    fleet.service.close()


def test_an_excluded_result_changes_nothing_and_its_device_hears_why(five):
    spec = toy_spec(rounds=1)
    run = five.store.runs.submit(spec)
    five.hello()
    five.sleep(1)
    assert five.store.runs.get(run).state == "finished"
    verdicts = seen(five.agents["board-1"], ResultVerdict)
    assert [v.verdict for v in verdicts] == [Verdict.STORED, Verdict.REFUSED]
    assert "norm of its update" in verdicts[-1].reason
    task = five.store.tasks.of(run)[1]
    assert (task.state, task.reason) == ("refused", verdicts[-1].reason)
    (step,) = five.store.steps.of(run)
    assert (step.results, step.lost) == (4, [{"device": "board-1", "reason": task.reason}])
    assert five.state_bytes(run) == expected_state(spec, ["board-0", "board-2", "board-3", "board-4"])


def test_a_device_that_is_refused_again_and_again_is_left_out_and_named(five):
    run = five.store.runs.submit(toy_spec(rounds=5))
    five.hello()
    five.sleep(2)
    assert five.store.runs.get(run).state == "finished"
    steps = five.store.steps.of(run)
    reason = "3 of its results were refused in this run"
    assert [step.left_out.get("board-1", "") for step in steps] == ["", "", "", reason, reason]
    assert [step.expected for step in steps] == [5, 5, 5, 4, 4]


def test_a_restart_between_the_results_judges_alike(five):
    spec = toy_spec(rounds=1)
    run = five.store.runs.submit(spec)
    five.agents["board-4"].holds_results = True
    five.hello()
    five.sleep(1)
    five.vanish()
    five.start()
    five.agents["board-4"].holds_results = False
    five.sleep(3)
    for agent in five.agents.values():
        agent.offer_results()
    five.sleep(2)
    assert five.store.tasks.of(run)[1].state == "refused"
    assert five.state_bytes(run) == expected_state(spec, ["board-0", "board-2", "board-3", "board-4"])


def test_a_step_with_too_few_admitted_results_goes_on_without_the_excluded_one(five):
    spec = toy_spec(rounds=1, min_results=5, deadline_s=5.0)
    run = five.store.runs.submit(spec)
    five.hello()
    five.sleep(2)
    row = five.store.runs.get(run)
    assert row.state == "failed"
    assert "4 of 5 needed results" in row.reason
    assert "norm of its update" in row.reason


def test_a_simulated_step_judges_as_a_live_one_does(five):
    """The fold that the simulator uses, given the same blobs, is the live fleet's state bit for bit."""
    spec = toy_spec(rounds=1)
    run = five.store.runs.submit(spec)
    five.hello()
    five.sleep(1)
    method = create_toy(spec)
    state = method.initial_state(None, NO_DATA)
    task = method.configure_round(state)
    fold = StepFold(method, state, lambda digest: task.mask, lambda: (), spec.fleet)
    for device in sorted(five.agents, reverse=True):
        answer = method.answer(task, device)
        factor = np.float32(1e5 if device == "board-1" else 1.0)
        params = {n: task.params[n] + factor * (v - task.params[n]) for n, v in answer.params.items()}
        if device != "board-1":
            params = answer.params
        fold.add(0, device, codec.encode(Payload(answer.meta, params, answer.mask), precision="fp32"), 50)
    assert codec.encode(fold.finish(), precision="fp32") == five.state_bytes(run)
