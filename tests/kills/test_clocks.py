"""Wall clocks that are wrong, that jump, and that differ: nothing that is decided depends on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet as ToyFleet
from tests.coordinator.toy_fleet import expected_state, hold_back
from tests.kills.fleet import Fleet, small_run, undisturbed
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

YEAR_S = 365.25 * 86_400.0
JUMPS_S = {"to 1970": -1.69e9, "an hour back": -3600.0, "two years ahead": 2 * YEAR_S}


class Wall:
    """The store's clock, ``off`` by some seconds."""

    def __init__(self, fleet: ToyFleet) -> None:
        self.fleet, self.off = fleet, 0.0

    def __call__(self) -> float:
        return 1.7e9 + self.fleet.clock.now + self.off


def give(fleet):
    for agent in fleet.agents.values():
        agent.offer_results()
    fleet.turn()


@pytest.mark.parametrize("jump", JUMPS_S)
@pytest.mark.parametrize("restarts", [True, False])
def test_the_coordinators_clock_jumps_in_the_middle_of_a_step(tmp_path, jump, restarts):
    fleet = ToyFleet(tmp_path)
    wall = Wall(fleet)
    for part in (fleet.store, fleet.store.runs, fleet.store.steps, fleet.store.devices):
        part._clock = wall
    spec = toy_spec(deadline_s=50.0)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.agents["board-0"].offer_results()
    fleet.turn()
    wall.off = JUMPS_S[jump]
    if restarts:
        fleet.vanish()
        fleet.start()
        for part in (fleet.store, fleet.store.runs, fleet.store.steps, fleet.store.devices):
            part._clock = wall
    assert fleet.counted() == 1
    fleet.sleep(40)
    assert fleet.store.runs.get(run).step == 0, "the deadline is not the wall clock's"
    while fleet.store.runs.get(run).state == "running":
        give(fleet)
        fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, row.reason) == ("finished", "")
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    assert all(step.duration_s >= 0 for step in fleet.store.steps.of(run))


def test_a_machine_that_starts_again_has_a_young_monotonic_clock(tmp_path):
    fleet = ToyFleet(tmp_path)
    spec = toy_spec()
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    fleet.clock.now = 3.0
    fleet.start()
    while fleet.store.runs.get(run).state == "running":
        give(fleet)
        fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


@pytest.mark.slow
@pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed")
def test_every_clock_of_a_fleet_is_another_and_jumps(tmp_path):
    """Real processes; what they take for the time of day is shifted in each by as much as its file says."""
    spec = small_run(3, rounds=4)
    fleet = Fleet(tmp_path / "fleet", 3, orders=tmp_path)
    offsets = dict(zip(fleet.daemons, [0.0, -1.69e9, 2 * YEAR_S, 0.0], strict=True))
    try:
        for name, seconds in offsets.items():
            set_clock(tmp_path, name, seconds)
        fleet.start()
        fleet.until_there()
        with fleet.store() as store:
            run = store.runs.submit(spec)
            for after, jump in enumerate(JUMPS_S.values()):
                fleet.until("a round", lambda r=run, a=after: store.runs.get(r).round >= a + 1)
                for name in fleet.daemons:
                    set_clock(tmp_path, name, jump)
                fleet.kill("coordinator" if after == 1 else "agent-0")
                fleet.tend()
            fleet.until_ended(store, run)
            assert fleet.faults(store, run, undisturbed(spec)) == []
    finally:
        fleet.stop()


def set_clock(directory: Path, name: str, seconds: float) -> None:
    """From now on; whole whenever it is read."""
    draft = directory / f"draft-clock-{name}"
    draft.write_text(str(seconds), encoding="ascii")
    draft.replace(directory / f"clock-{name}")
