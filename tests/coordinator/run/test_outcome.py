"""Which state a run ends with: chosen by what is on disk, so that no death in between changes it."""

from __future__ import annotations

import logging

import msgspec
import pytest

from tests.coordinator.toy import create_toy, toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back
from tinyfleet.coordinator.store.records import ChosenState
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.outcome.averaging import averaged
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import RunSpec

SWINGING = {0: 0.7, 1: 0.93, 2: 0.6, 3: 0.9, 4: 0.82}  # step -> accuracy of the state after it


def swinging(result: str, rounds: int = 5, **data: float) -> RunSpec:
    spec = toy_spec(rounds=rounds)
    return msgspec.structs.replace(
        spec,
        result=result,
        data=msgspec.structs.replace(spec.data, **data),
        training=msgspec.structs.replace(spec.training, average_rounds=3),
    )


def swing(fleet: Fleet) -> None:
    fleet.engine.accuracies = SWINGING


def done(fleet: Fleet, spec: RunSpec) -> str:
    swing(fleet)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    return run


def mean_of(spec: RunSpec, fleet: Fleet, rounds: range) -> bytes:
    states = [codec.decode(expected_state(spec, fleet.agents, count)) for count in rounds]
    return codec.encode(averaged(create_toy(spec).problem.graph, states), precision="fp32")


def blobs(fleet: Fleet) -> set[str]:
    return {path.name for path in fleet.store.blobs.directory.rglob("*") if path.is_file()}


def test_the_last_state_is_the_result_and_a_run_below_its_best_says_so(fleet, caplog):
    spec = swinging("last")
    run = done(fleet, spec)
    row = fleet.store.runs.get(run)
    assert (row.result, row.result_step, row.result_test_accuracy) == ("last", 4, 0.82)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    assert "82.0% on test data, and the state after step 1 had 93.0%" in row.warning
    assert any(row.warning in record.message for record in caplog.records if record.levelno == logging.WARNING)
    better = fleet.store.state_blob(run, 1)
    assert better.read_bytes() == expected_state(spec, fleet.agents, 2)
    assert blobs(fleet) == {better.name, fleet.store.state_blob(run).name}
    with pytest.raises(ConfigError, match=r"no state after step 2; it keeps those after 1, 4"):
        fleet.store.state_blob(run, 2)


def test_the_best_state_on_validation_data_is_kept_and_is_the_result(fleet):
    spec = swinging("best")
    run = done(fleet, spec)
    row = fleet.store.runs.get(run)
    assert (row.result, row.result_step, row.warning) == ("best", 1, "")
    assert (row.result_validation_accuracy, row.result_test_accuracy) == (0.93, 0.93)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents, 2)
    assert [step.validation_accuracy for step in fleet.store.steps.of(run)] == list(SWINGING.values())
    fleet.store.collect_garbage(keep_steps=0)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents, 2)


def test_the_average_is_of_the_last_rounds_and_is_measured_itself(fleet):
    spec = swinging("averaged", validation_fraction=0.5)
    fleet.engine.accuracies = {-1: 0.95}
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    row = fleet.store.runs.get(run)
    assert (row.state, row.result, row.result_step) == ("finished", "averaged", 4)
    assert (row.result_test_accuracy, row.result_validation_accuracy, row.warning) == (0.95, 0.95, "")
    assert fleet.state_bytes(run) == mean_of(spec, fleet, range(3, 6))


@pytest.mark.parametrize("result", ["best", "averaged"])
def test_a_coordinator_that_dies_at_every_step_comes_to_the_same_result(fleet, result):
    spec = swinging(result)
    swing(fleet)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    for _ in range(5):
        fleet.sleep(1)
        for agent in fleet.agents.values():
            agent.offer_results()
        fleet.turn()
        fleet.vanish()
        fleet.start()
        swing(fleet)
        fleet.sleep(6)
    row = fleet.store.runs.get(run)
    assert (row.state, row.result) == ("finished", result)
    expected = expected_state(spec, fleet.agents, 2) if result == "best" else mean_of(spec, fleet, range(3, 6))
    assert fleet.state_bytes(run) == expected


def test_a_run_that_is_stopped_has_the_best_or_the_mean_of_what_it_had(fleet):
    for result, rounds in (("best", range(2, 3)), ("averaged", range(1, 4))):
        spec = swinging(result, rounds=50)
        swing(fleet)
        hold_back(fleet, *fleet.agents)
        run = fleet.store.runs.submit(spec)
        fleet.hello()
        for _ in range(3):
            fleet.sleep(1)
            for agent in fleet.agents.values():
                agent.offer_results()
            fleet.turn()
        fleet.sleep(1)
        operator = Store(fleet.directory / "state")
        operator.runs.request_stop(run)
        operator.close()
        fleet.sleep(1)
        assert fleet.store.runs.get(run).state == "stopped"
        assert fleet.state_bytes(run) == mean_of(spec, fleet, rounds)


def test_best_is_measured_though_the_coordinator_measures_nothing_else(tmp_path):
    fleet = Fleet(tmp_path, evaluate=False)
    assert fleet.store.runs.get(done(fleet, swinging("best"))).result_step == 1
    fleet.service.close()


def test_best_that_nothing_was_measured_for_is_the_last_state_and_says_so(fleet, monkeypatch):
    monkeypatch.setattr(fleet.store.steps, "save_evaluation", lambda *_: None)
    run = done(fleet, swinging("best"))
    row = fleet.store.runs.get(run)
    assert (row.result, row.result_step) == ("last", 4)
    assert "none of its states was measured on validation data" in row.warning


def test_the_result_of_a_run_before_this_was_its_latest_state(fleet):
    spec = toy_spec()
    run = done(fleet, spec)
    fleet.store.runs.save_outcome(run, ChosenState("", 0, None))  # as an earlier version left it
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
