"""What hangs without dying: the coordinator's engine process is stopped, and nobody lets it go on."""

from __future__ import annotations

import pytest

from tests.kills.fleet import Fleet, small_run, undisturbed
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed"),
]


NOTICED = "used no processor time for 3 s"


def stop_engine(fleet):
    """Once there is one."""
    (engine,) = fleet.until("an engine process", lambda: fleet.children("coordinator"))
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
