"""A device at work knows for how long the step waits for it."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import seen
from tinyfleet.fedcore.protocol.messages import LeaseExtended, TaskOffer


def at_work(fleet, **settings):
    """A step in which nobody answers."""
    run = fleet.store.runs.submit(toy_spec(**settings))
    for agent in fleet.agents.values():
        agent.behaviour = lambda agent, offer, task: None
    fleet.hello()
    fleet.sleep(1)
    return run


def test_a_lease_is_as_long_as_a_result_can_count(fleet):
    at_work(fleet, deadline_s=20.0, staleness=2)
    agent = fleet.agents["board-0"]
    assert 58.0 <= seen(agent, TaskOffer)[0].lease_s <= 60.0
    assert not seen(agent, LeaseExtended), "it knows"


def test_a_step_that_is_tried_again_extends_the_leases_of_those_at_work(fleet):
    at_work(fleet, deadline_s=20.0)
    agent = fleet.agents["board-0"]
    fleet.sleep(21)
    assert fleet.service._scheduler._run._open.attempt == 2
    extended = seen(agent, LeaseExtended)
    assert len(extended) == 1
    assert 18.0 <= extended[0].lease_s <= 20.0
    assert len(seen(agent, TaskOffer)) == 1, "it keeps its work"


def test_a_pause_that_puts_the_deadline_off_extends_the_leases_of_all(fleet):
    run = at_work(fleet, deadline_s=20.0)
    first, second = fleet.agents["board-0"], fleet.agents["board-1"]
    first.status("paused", first.offer, "hot", paused_s=0.0)
    fleet.sleep(19)
    assert fleet.store.runs.get(run).step == 0
    assert seen(second, LeaseExtended)[-1].lease_s >= 15.0


def test_a_coordinator_that_starts_again_tells_those_at_work_that_it_waits(fleet):
    at_work(fleet, deadline_s=20.0)
    fleet.vanish()
    fleet.start()
    fleet.sleep(2)
    for agent in fleet.agents.values():
        assert len(seen(agent, LeaseExtended)) == 1
        assert len(seen(agent, TaskOffer)) == 1
