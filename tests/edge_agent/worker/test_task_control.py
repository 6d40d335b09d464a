"""Levers of a running task: planned, refused, tightened, and what the offer itself asks for."""

from __future__ import annotations

import pytest

from tinyfleet.edge_agent.worker.commands import Chosen
from tinyfleet.edge_agent.worker.task_control import TaskControl
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.planning.cost_model_file import shipped
from tinyfleet.fedcore.planning.plan import Way
from tinyfleet.fedcore.planning.planner import plan_task
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers


def task_control(limit: int = 1 << 40, control: Control | None = None) -> TaskControl:
    spec = RunSpec(
        method={"name": "fedtiny"}, model=ModelSettings("resnet8", (3, 32, 32)), training=TrainingSettings(batch=64)
    )
    method = create(spec.method, problem_of(spec))
    return TaskControl(control or Control(), plan_task(method, shipped("torch"), limit, 500))


def test_the_plan_is_what_the_task_runs_with():
    least = task_control().plan.forecasts[3].peak_bytes * 1.06
    tight = task_control(int(least))
    chosen = tight.chosen
    assert (chosen.index, chosen.ways) == (3, 21)
    assert chosen.way == Way(Levers(16))
    assert tight.control.levers == Levers(16)
    assert chosen.peak_bytes <= least
    assert str(chosen.way) == "micro-batch 16"


def test_the_allocator_follows_the_plan():
    heaps = []
    task = TaskControl(Control(), task_control().plan, heaps.append)
    assert task.chosen.way.roomy
    task.tighten()
    assert heaps == [True, False]
    assert not task.chosen.way.roomy
    assert task.control.levers == NO_LEVERS


def test_each_tightening_takes_less_until_there_is_no_less():
    task = task_control()
    peaks = [task.chosen.peak_bytes]
    while task.tighten():
        peaks.append(task.chosen.peak_bytes)
        task.step_done()
    assert peaks == sorted(set(peaks), reverse=True)
    assert task.control.levers == Levers(4, 0.2, "fp16")
    assert task.control.enough, "what is done by now is better than nothing"


def test_the_offers_own_levers_hold_where_the_board_would_keep_more():
    task = task_control(control=Control(Levers(activation_keep=0.3)))
    assert task.control.levers.activation_keep == 0.3
    while task.tighten():
        assert task.control.levers.activation_keep <= 0.3
    assert task.control.levers.activation_keep == 0.2


def test_only_what_surely_does_not_fit_is_refused():
    least = min(way.peak_bytes for way in task_control().plan.forecasts)
    assert (
        task_control(int(least / 1.1)).refusal == ""
    )  # within the prediction's error: tried, under the hard limit
    refused = task_control(int(least / 1.2)).refusal
    assert "limits.memory_limit" in refused
    assert "training.batch" in refused


def test_without_a_limit_nothing_is_planned():
    free = TaskControl(Control(steps=3), None)
    assert free.chosen == Chosen()
    assert not free.tighten()
    assert (free.refusal, free.control.levers, free.control.steps) == ("", NO_LEVERS, 3)


@pytest.mark.parametrize("engine", ["torch", "torch-cuda"])
def test_a_cost_model_ships_with_the_engine(engine):
    assert shipped(engine).engine == "torch"
