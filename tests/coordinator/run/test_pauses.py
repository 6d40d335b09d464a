"""A board that is too hot pauses its task: the round waits for it, but not for ever."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tinyfleet.fedcore.protocol.messages import TaskOffer, TaskState

HOT = "the temperature is 90 °C"


def pausing(fleet, name="board-0"):
    """A fleet in its first step, whose ``name`` pauses at once and holds its result back."""
    late = fleet.agents[name]
    late.holds_results = True
    run = fleet.store.runs.submit(toy_spec(rounds=1, min_results=1, deadline_s=20.0))
    fleet.hello()
    late.status(TaskState.PAUSED, last_offer(late), HOT)
    fleet.turn()
    return run, late


def last_offer(agent):
    return [message for message in agent.seen if isinstance(message, TaskOffer)][-1]


def test_the_deadline_is_put_off_by_a_pause(fleet, caplog):
    caplog.set_level("INFO", "tinyfleet.coordinator.step.step")
    run, late = pausing(fleet)
    fleet.sleep(15)
    assert "90" in fleet.store.tasks.of(run)[0].reason
    late.status(TaskState.RUNNING, last_offer(late), paused_s=15.0)
    fleet.sleep(15)
    (told,) = [record.getMessage() for record in caplog.records if "put off" in record.getMessage()]
    assert told.startswith("board-0, step 0: goes on after a pause; the deadline is put off by 15.0 s, ")
    assert fleet.store.steps.of(run)[0].state == "open", "30 s have passed, 15 of them paused"
    assert fleet.store.tasks.of(run)[0].reason == ""
    late.offer_results()
    fleet.sleep(1)
    (step,) = fleet.store.steps.of(run)
    assert (step.state, step.results, step.lost) == ("finished", 3, [])


def test_a_pause_that_goes_on_puts_it_off_by_as_much_again_at_most(fleet):
    run, _ = pausing(fleet)
    fleet.sleep(38)
    assert fleet.store.steps.of(run)[0].state == "open"
    fleet.sleep(5)
    (step,) = fleet.store.steps.of(run)
    assert (step.state, step.results) == ("finished", 2)
    assert step.lost[0]["device"] == "board-0"
    assert "paused" in step.lost[0]["reason"]


def test_without_a_pause_the_deadline_is_what_it_was(fleet):
    run, late = pausing(fleet)
    late.status(TaskState.RUNNING, last_offer(late), paused_s=0.0)
    fleet.sleep(21)
    assert fleet.store.steps.of(run)[0].state == "finished"
