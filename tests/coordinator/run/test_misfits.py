"""Devices whose data means something else than the run's: left out before anything is trained, and told why."""

from __future__ import annotations

import logging

import msgspec
import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import seen
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.protocol.messages import LeftOut, TaskOffer
from tinyfleet.fedcore.run_spec import ModelSettings

CONTRACT = DataDescription((1, 4, 4), "uint8", classes=("blue", "green", "red"), range=(0.0, 255.0))
SPEC = msgspec.structs.replace(
    toy_spec(rounds=3), model=ModelSettings("toy", (1, 4, 4), 3, {"width": 40}), contract=CONTRACT
)


def of(**changes):
    return msgspec.structs.replace(CONTRACT, **changes)


@pytest.fixture
def misfit(fleet):
    """A fleet in which one board has another class, one has two of the three, and one the same."""
    own = (of(classes=("green", "teal")), of(classes=("green", "red")), CONTRACT)
    for agent, data in zip(fleet.agents.values(), own, strict=True):
        agent.data = data
    return fleet


def test_another_class_is_left_out_and_everybody_hears_why(misfit, caplog):
    run = misfit.store.runs.submit(SPEC)
    with caplog.at_level(logging.WARNING):
        misfit.hello()
        misfit.sleep(3)
    assert misfit.store.runs.get(run).state == "finished"
    steps = misfit.store.steps.of(run)
    assert [step.results for step in steps] == [2] * 3
    (reason,) = {step.left_out["board-0"] for step in steps}
    assert all(name in reason for name in ("teal", "green", "blue", "red"))
    assert not seen(misfit.agents["board-0"], TaskOffer)
    assert seen(misfit.agents["board-0"], LeftOut) == [LeftOut(run, reason)]
    assert not seen(misfit.agents["board-1"], LeftOut)
    said = [record.getMessage() for record in caplog.records if "teal" in record.getMessage()]
    assert said == [f"run {run} goes on without board-0: {reason}"]
    share = misfit.store.shares.latest()["board-0"]
    assert (share.part, share.reason) == ("left out", reason)


def test_one_that_has_changed_takes_part_again(misfit):
    from tests.coordinator.toy_fleet import hold_back

    run = misfit.store.runs.submit(SPEC)
    hold_back(misfit, "board-1")
    misfit.hello()
    misfit.sleep(1)
    board = misfit.agents["board-0"]
    board.data = of(classes=("green", "blue"))
    board.restart()
    board.hello()
    misfit.agents["board-1"].holds_results = False
    misfit.agents["board-1"].offer_results()
    misfit.sleep(5)
    assert misfit.store.runs.get(run).state == "finished"
    assert [step.results for step in misfit.store.steps.of(run)] == [2, 3, 3]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (of(shape=(3, 4, 4)), "shape"),
        (of(dtype="float32", range=None), "value range"),
        (of(units="g"), None),
        (of(classes=("red", "green", "blue")), None),
    ],
)
def test_what_it_says_decides(fleet, data, word):
    fleet.agents["board-0"].data = data
    run = fleet.store.runs.submit(SPEC)
    fleet.hello()
    fleet.sleep(3)
    left_out = fleet.store.steps.of(run)[0].left_out
    assert (word is None and not left_out) or word in left_out["board-0"]


def test_a_run_without_a_contract_holds_boards_to_its_model(fleet):
    fleet.agents["board-0"].data = of(classes=("a", "b", "c", "d"))
    fleet.agents["board-1"].data = of(classes=("x", "y"))
    run = fleet.store.runs.submit(msgspec.structs.replace(SPEC, contract=None))
    fleet.hello()
    fleet.sleep(3)
    left_out = fleet.store.steps.of(run)[0].left_out
    assert left_out.keys() == {"board-0"}
    assert "4 classes" in left_out["board-0"]
    assert "3 outputs" in left_out["board-0"]
