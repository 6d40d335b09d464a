"""A coordinator that dies and starts again loses nothing, and counts nothing twice."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import expected_state, hold_back, seen
from tinyfleet.fedcore.protocol.messages import ChunkRequest, TaskOffer


def test_a_restart_between_steps_changes_nothing(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    for step in range(3):
        fleet.sleep(1)
        assert fleet.store.runs.get(run).step == step
        for agent in fleet.agents.values():
            agent.offer_results()
        fleet.turn()
        fleet.vanish()
        fleet.start()
        fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


def test_a_restart_in_the_middle_of_a_step_changes_nothing(fleet):
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, "board-1", "board-2")
    fleet.hello()
    fleet.sleep(1)
    assert [task.state for task in fleet.store.tasks.of(run)].count("stored") == 1
    fleet.vanish()
    fleet.start()
    assert fleet.counted() == 1  # folded again from the disk
    fleet.turn()
    fleet.agents["board-2"].offer_results()
    fleet.sleep(1)
    assert fleet.counted() == 2
    fleet.vanish()
    fleet.start()
    for name in ("board-1", "board-2"):
        fleet.agents[name].holds_results = False
    fleet.turn()
    fleet.agents["board-1"].offer_results()
    fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    assert [step.results for step in fleet.store.steps.of(run)] == [3, 3, 3]


def test_devices_that_restarted_with_the_coordinator_get_their_offers_again(fleet):
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    for agent in fleet.agents.values():
        agent.behaviour = lambda agent, offer, task: None  # never answers
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    for agent in fleet.agents.values():
        agent.behaviour = None
        agent.restart()
    fleet.start()
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"


def test_a_device_that_was_fetching_its_task_goes_on_fetching_it(fleet, caplog):
    run = fleet.store.runs.submit(toy_spec())
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    while fleet.store.runs.get(run).step < 1:
        fleet.sleep(1)
        for agent in fleet.agents.values():
            agent.offer_results()
        fleet.turn()
    fleet.sleep(1)
    agent = fleet.agents["board-0"]
    second = seen(agent, TaskOffer)[-1].manifest  # of the variant without the mask, which it holds
    fleet.vanish()
    fleet.start()
    agent.say(ChunkRequest(second.sha256, 0, 1))
    fleet.turn()
    assert second.sha256 in fleet.service._offered.digests
    assert len(fleet.service._offered.digests) == 2, "others may be fetching the variant with it"
    assert "not on offer" not in caplog.text
