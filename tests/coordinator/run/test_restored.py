"""A coordinator whose database is an older one: what its fleet did since then counts where it still fits."""

from __future__ import annotations

import shutil

import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tests.coordinator.toy_fleet import expected_state, hold_back, seen
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import ResultVerdict, TaskOffer, Verdict


def restored_under(fleet, run):
    """Step 1 is under way, and board-2 holds its result of it, when the database of step 0 is put back."""
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    state, backup = fleet.directory / "state", fleet.directory / "backup"
    shutil.copytree(state, backup)
    fleet.start()
    for name, agent in fleet.agents.items():
        agent.holds_results = name == "board-2"
    fleet.hello()
    fleet.agents["board-2"].offer_results()
    fleet.sleep(2)
    assert fleet.store.runs.get(run).step == 1
    assert list(fleet.agents["board-2"].outbox) == [(run, 1)]
    fleet.vanish()
    shutil.rmtree(state)
    shutil.copytree(backup, state)
    fleet.start()
    assert fleet.store.runs.get(run).step == 0


def as_another(agent, offer, task):
    """What the same board does on another day: with other samples, say."""
    answer = create_toy(toy_spec()).answer(task, "another")
    agent.put_result(offer, codec.encode(answer, precision="fp32", send_mask=False))
    agent.behaviour = None


def after(spec, first, rest):
    """The state where ``first`` answer in the first round, and ``rest`` in all others."""
    method = create_toy(spec)
    state = method.initial_state(None, NO_DATA)
    for round_ in range(spec.training.rounds):
        task, fold = method.configure_round(state), method.begin_fold(state)
        for device in rest if round_ else first:
            method.fold(fold, method.answer(task, device))
        state = method.finish_round(state, fold)
    return codec.encode(state, precision="fp32")


@pytest.fixture
def spec():
    return toy_spec(rounds=3, min_results=3)


def test_a_result_of_a_lost_past_does_not_count_and_its_task_is_done_anew(fleet, spec):
    run = fleet.store.runs.submit(spec)
    restored_under(fleet, run)
    agent = fleet.agents["board-2"]
    trained = agent.trained
    (waiting,) = [offer for offer, _ in agent.outbox.values()]
    agent.behaviour = as_another
    agent.holds_results = False
    fleet.hello()
    fleet.sleep(3)
    agent.offer_results()  # of step 1, which starts from another state this time
    fleet.sleep(6)  # a heartbeat that had left before the verdict came says that it is at the step
    offers = [offer for offer in seen(agent, TaskOffer) if offer.step == 1]
    assert offers[-1].base != waiting.base == offers[0].base
    refused = [verdict for verdict in seen(agent, ResultVerdict) if verdict.verdict is Verdict.REFUSED]
    assert [verdict.step for verdict in refused] == [1]
    assert "another state" in refused[0].reason
    assert fleet.store.runs.get(run).state == "finished"
    assert agent.trained == trained + 2, "steps 1 and 2; step 0 it answered otherwise"
    assert {task.state for task in fleet.store.tasks.of(run)} == {"stored"}
    boards = list(fleet.agents)
    assert fleet.state_bytes(run) == after(spec, [*boards[:2], "another"], boards)


def test_a_result_of_a_lost_past_that_came_about_once_more_counts(fleet, spec):
    run = fleet.store.runs.submit(spec)
    restored_under(fleet, run)
    agent = fleet.agents["board-2"]
    trained = agent.trained
    agent.holds_results = False
    fleet.hello()
    fleet.sleep(3)
    agent.offer_results()
    fleet.sleep(3)
    assert fleet.store.runs.get(run).state == "finished"
    assert agent.trained == trained + 2, "steps 0 and 2"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
