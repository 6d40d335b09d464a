"""What hangs without dying: an engine process that is stopped for good, a coordinator or a board for a while."""

from __future__ import annotations

import signal
import time

import pytest

from tests.kills.fleet import COORDINATOR, Fleet, small_run, undisturbed
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed"),
]


NOTICED = "used no processor time for 3 s"


def stop_engine(fleet):
    """Once there is one."""
    (engine,) = fleet.until("an engine process", lambda: fleet.children(COORDINATOR))
    engine.suspend()


def test_an_engine_process_that_is_stopped_costs_a_run_nothing(tmp_path):
    spec = small_run(2, rounds=3, pretrain_epochs=20)
    fleet = Fleet(tmp_path / "fleet", 2, settings="engine_hung_s = 3.0\n")
    try:
        fleet.start()
        fleet.until_there()
        with fleet.store() as store:
            run = store.runs.submit(spec)
            stop_engine(fleet)
            fleet.until("the first step", lambda: store.steps.of(run), tend=True)
            assert (noticed := fleet.said("coordinator").count(NOTICED)) >= 1
            stop_engine(fleet)
            fleet.until_ended(store, run)
            assert fleet.said("coordinator").count(NOTICED) > noticed
            assert fleet.faults(store, run, undisturbed(spec)) == []
    finally:
        fleet.stop()


def test_a_board_and_a_coordinator_that_are_stopped_for_a_while_cost_a_run_nothing(tmp_path):
    spec = small_run(2, rounds=4)
    fleet = Fleet(tmp_path / "fleet", 2)
    try:
        fleet.start()
        fleet.until_there()
        with fleet.store() as store:
            run = store.runs.submit(spec)
            fleet.until("a step", lambda: store.runs.get(run).step >= 1)
            fleet.signal("agent-0", signal.SIGSTOP)
            fleet.until("it is missed", lambda: "agent-0" in away(store))
            fleet.signal("agent-0", signal.SIGCONT)
            fleet.until("it is back", lambda: not away(store))
            fleet.signal(COORDINATOR, signal.SIGSTOP)
            time.sleep(8.0)  # heartbeats of this fleet come every half second
            fleet.signal(COORDINATOR, signal.SIGCONT)
            fleet.until_ended(store, run)
            assert fleet.faults(store, run, undisturbed(spec)) == []
    finally:
        fleet.stop()


def away(store):
    return [row.device for row in store.devices.all() if not row.online]
