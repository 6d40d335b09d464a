"""Levers of a running task: planned, refused, tightened, and what the offer itself asks for."""

from __future__ import annotations

import pytest

from tinyfleet.edge_agent.worker.task_control import Pilot
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.planning.kernel_choice import shipped
from tinyfleet.fedcore.planning.planner import plan
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings


def pilot(limit: int = 1 << 40, control: Control | None = None) -> Pilot:
    spec = RunSpec(
        method={"name": "fedtiny"}, model=ModelSettings("resnet8", (3, 32, 32)), training=TrainingSettings(batch=64)
    )
    method = create(spec.method, problem_of(spec))
    return Pilot(control or Control(), plan(method, shipped("torch"), limit, 500))


def test_the_plan_is_what_the_task_runs_with():
    least = pilot().plan.ways[3].peak_bytes * 1.06
    tight = pilot(int(least))
    event = tight.event("planned")
    assert (event["rung"], event["rungs"], event["micro_batch"]) == (3, 21, 16)
    assert (tight.control.micro_batch, tight.control.keep) == (16, 1.0)
    assert event["peak_bytes"] <= least
    assert event["text"] == "micro-batch 16"
    assert event["round_seconds"] > 0


def test_the_allocator_follows_the_plan():
    heaps = []
    flown = Pilot(Control(), pilot().plan, heaps.append)
    assert flown.event("planned")["roomy"]
    flown.tighten()
    assert heaps == [True, False]
    assert not flown.event("tightened")["roomy"]
    assert flown.control.micro_batch == 0


def test_each_tightening_takes_less_until_there_is_no_less():
    flown = pilot()
    peaks = [flown.event("planned")["peak_bytes"]]
    while flown.tighten():
        peaks.append(flown.event("tightened")["peak_bytes"])
        flown.step_done()
    assert peaks == sorted(set(peaks), reverse=True)
    assert (flown.control.micro_batch, flown.control.keep, flown.control.cache) == (4, 0.2, "fp16")
    assert flown.control.enough, "what is done by now is better than nothing"


def test_the_offers_own_keep_holds_where_the_board_would_keep_more():
    flown = pilot(control=Control(keep=0.3))
    assert flown.control.keep == 0.3
    while flown.tighten():
        assert flown.control.keep <= 0.3
    assert flown.control.keep == 0.2


def test_only_what_surely_does_not_fit_is_refused():
    least = min(way.peak_bytes for way in pilot().plan.ways)
    assert pilot(int(least / 1.1)).refusal == ""  # within the prediction's error: tried, under the hard limit
    refused = pilot(int(least / 1.2)).refusal
    assert "limits.memory_limit" in refused
    assert "training.batch" in refused


def test_without_a_limit_nothing_is_planned():
    free = Pilot(Control(steps=3), None)
    assert free.event("planned") == {"event": "planned"}
    assert not free.tighten()
    assert (free.refusal, free.control.micro_batch, free.control.steps) == ("", 0, 3)


@pytest.mark.parametrize("engine", ["torch", "torch-cuda"])
def test_a_calibration_ships_with_the_engine(engine):
    assert shipped(engine).engine == "torch"
    assert shipped("abacus") is None
