"""Ends that a device missed: it hears of all that it still keeps something of."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import seen
from tinyfleet.fedcore.protocol.messages import RunEnded


def test_a_device_that_missed_several_ends_hears_of_each_run_that_it_keeps(fleet):
    away = fleet.agents["board-2"]
    away.goodbye()
    for name in ("board-0", "board-1"):
        fleet.agents[name].hello()
    runs = []
    for _ in range(3):
        runs.append(fleet.store.runs.submit(toy_spec(rounds=1)))
        fleet.sleep(10)
    assert [fleet.store.runs.get(run).state for run in runs] == ["finished"] * 3
    fleet.vanish()
    fleet.start()
    away.seen.clear()
    away.restart()
    away.held = [*runs[:2], "of-another-fleet"]
    away.hello()
    fleet.turn()
    told = [message.run for message in seen(away, RunEnded)]
    assert sorted(told) == sorted(runs), "the two that it named, the latest as everybody, and nothing of others"
