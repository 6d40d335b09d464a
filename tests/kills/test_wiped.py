"""State directories that are gone, or another's: a stranger's word costs no work, and each has its remedy."""

from __future__ import annotations

import shutil

import msgspec
import pytest

from tests.kills.fleet import COORDINATOR, Fleet, small_run, undisturbed
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed"),
]

SPEC = small_run(2, rounds=3)
SLOW = msgspec.structs.replace(SPEC, training=msgspec.structs.replace(SPEC.training, local_epochs=300))


@pytest.fixture
def fleet(tmp_path):
    fleet = Fleet(tmp_path / "fleet", 2)
    fleet.start()
    fleet.until_there()
    yield fleet
    fleet.stop()


def under_way(fleet, store):
    """A run that has finished a step; its name."""
    run = store.runs.submit(SPEC)
    fleet.until("a step", lambda: store.runs.get(run).step >= 1)
    return run


def with_results_that_wait(fleet, store):
    """The coordinator dies while all boards train; what they have afterwards, and the run."""
    run = store.runs.submit(SLOW)
    fleet.until("training", lambda: at_work(store, run))
    fleet.kill(COORDINATOR)
    fleet.until("results that wait", lambda: len(fleet.waiting()) == len(fleet.agents))
    return sorted(fleet.waiting()), run


def at_work(store, run):
    """True where all boards are in the middle of one round."""
    steps = store.steps.of(run)
    if not steps or steps[-1].stage != "train":
        return False
    return all(task.state == "running" for task in store.tasks.of(run) if task.step == steps[-1].step)


def test_a_board_that_was_wiped_is_refused_until_the_operator_takes_its_new_key(fleet):
    with fleet.store() as store:
        run = under_way(fleet, store)
        fleet.kill("agent-0")
        shutil.rmtree(fleet.directory / "agent-0")
        fleet.tend()
        fleet.until_said("agent-0", "tinyfleet devices rekey agent-0")
        assert "is refused" in next(row.trouble for row in store.devices.all() if row.device == "agent-0")
        store.devices.rekey("agent-0")
        fleet.until_ended(store, run)
        assert store.runs.get(run).state == "finished"
        assert [step.results for step in store.steps.of(run)] == [2] * len(store.steps.of(run))
        assert store.runs.state_sha256(run) == undisturbed(SPEC)


def test_boards_heed_no_coordinator_that_was_wiped_until_they_are_let_go(fleet):
    with fleet.store() as store:
        waiting, _ = with_results_that_wait(fleet, store)
    shutil.rmtree(fleet.state)
    fleet.tend()
    for name in fleet.agents:
        fleet.until_said(name, "and is not heard: another coordinator")
    assert sorted(fleet.waiting()) == waiting, "a stranger's silence or word costs no result"
    for name in fleet.agents:
        fleet.kill(name)
        fleet.release(name)
    fleet.tend()
    fleet.until_there()
    with fleet.store() as store:
        run = store.runs.submit(SPEC)
        fleet.until_ended(store, run)
        assert fleet.faults(store, run, undisturbed(SPEC)) == []
    assert sorted(fleet.waiting()) == waiting, "they are of a run that nobody here knows"


def test_a_second_coordinator_on_the_broker_disturbs_nobody(fleet):
    with fleet.store() as store:
        run = under_way(fleet, store)
        fleet.start_process("stranger")
        fleet.until_said("stranger", "another coordinator is here")
        fleet.until_ended(store, run)
        assert fleet.faults(store, run, undisturbed(SPEC)) == []
        assert not fleet.leftovers(store)


def test_an_empty_state_directory_by_mistake_costs_no_result_that_waits(fleet):
    with fleet.store() as store:
        waiting, run = with_results_that_wait(fleet, store)
        fleet.start_process("mistake")
        fleet.until("it notices", lambda: "another coordinator is here" in fleet.said("mistake"))
        fleet.kill("mistake")
        assert sorted(fleet.waiting()) == waiting
        fleet.tend()
        fleet.until_ended(store, run)
        assert fleet.faults(store, run, undisturbed(SLOW)) == []
