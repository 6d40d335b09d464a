"""A device that can never do a run's tasks as it is: asked once, named, and asked again when it is another."""

from __future__ import annotations

import logging

import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import hold_back, seen
from tinyfleet.fedcore.protocol.messages import TaskOffer, TaskState

REASON = "label 3 has no output"


def refuse(agent, offer, task):
    agent.status(TaskState.UNFIT, offer, REASON)
    agent.offer = None


@pytest.fixture
def unfit(fleet):
    """The fleet, in which one device can do no task."""
    fleet.agents["board-1"].behaviour = refuse
    return fleet


def offers(fleet, run):
    return [offer for offer in seen(fleet.agents["board-1"], TaskOffer) if offer.run == run]


def test_it_is_asked_once_and_the_run_says_why(unfit, caplog):
    run = unfit.store.runs.submit(toy_spec(rounds=3))
    with caplog.at_level(logging.WARNING):
        unfit.hello()
        unfit.sleep(3)
    assert unfit.store.runs.get(run).state == "finished"
    assert len(offers(unfit, run)) == 1
    first, *others = unfit.store.steps.of(run)
    assert {"device": "board-1", "reason": f"unfit: {REASON}"} in first.lost
    assert [step.left_out for step in others] == [{"board-1": f"unfit: {REASON}"}] * 2
    said = [record.getMessage() for record in caplog.records if REASON in record.getMessage()]
    assert said == [f"run {run}: board-1 can take no part until its agent starts anew: {REASON}"]


def in_its_first_step(fleet):
    """A run whose first step waits for one result."""
    run = fleet.store.runs.submit(toy_spec(rounds=4))
    hold_back(fleet, "board-0")
    fleet.hello()
    fleet.sleep(1)
    assert [step.state for step in fleet.store.steps.of(run)] == ["open"]
    return run


def let_go_on(fleet):
    fleet.agents["board-0"].holds_results = False
    fleet.agents["board-0"].offer_results()
    fleet.sleep(5)


def test_a_restart_of_the_coordinator_remembers_it(unfit):
    run = in_its_first_step(unfit)
    unfit.vanish()
    unfit.start()
    unfit.sleep(1)
    let_go_on(unfit)
    assert unfit.store.runs.get(run).state == "finished"
    assert len(offers(unfit, run)) == 1


def test_an_agent_that_starts_anew_is_asked_again(unfit):
    run = in_its_first_step(unfit)
    board = unfit.agents["board-1"]
    board.behaviour = None
    board.restart()
    board.hello()
    let_go_on(unfit)
    first, *others = unfit.store.steps.of(run)
    assert first.results == 2
    assert [(step.results, step.left_out) for step in others] == [(3, {})] * 3


def test_another_run_asks_it_too(unfit):
    runs = [unfit.store.runs.submit(toy_spec(rounds=2, seed=seed)) for seed in (1, 2)]
    unfit.hello()
    unfit.sleep(4)
    assert [len(offers(unfit, run)) for run in runs] == [1, 1]


def test_where_nobody_can_the_run_fails_at_once_and_says_why(fleet):
    for agent in fleet.agents.values():
        agent.behaviour = refuse
    run = fleet.store.runs.submit(toy_spec(rounds=2))
    fleet.hello()
    fleet.sleep(2)
    row = fleet.store.runs.get(run)
    assert row.state == "failed"
    assert REASON in row.reason
    assert all(len([o for o in seen(agent, TaskOffer) if o.run == run]) == 1 for agent in fleet.agents.values())
