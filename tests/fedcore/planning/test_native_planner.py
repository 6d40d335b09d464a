"""Plans of the native engine: what it foretells is what a step takes; exact ways first."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.training.engines import MISSING, new_engine
from tests.fedcore.training.graphs import batch
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.planning import native_plan
from tinyfleet.fedcore.planning.cost_model_file import shipped
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.planning.native_plan import native_ways
from tinyfleet.fedcore.planning.plan import MARGIN
from tinyfleet.fedcore.planning.planner import plan_task
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.sparsity.allocation import erk_counts, erk_mask
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.native import facts as native_facts

needs_native = pytest.mark.skipif(bool(MISSING["native"]), reason="sparse_engine is not installed")


def method(name="fedtiny", norm="batch", size=32, **settings):
    model = ModelSettings("resnet8", (3, 32, 32), 10, {"norm": norm})
    spec = RunSpec(method={"name": name, **settings}, model=model, training=TrainingSettings(batch=size))
    return create(spec.method, problem_of(spec))


def test_what_changes_no_result_comes_first():
    ways = list(native_ways(method()))
    assert [way.levers.lossy for way in ways] == sorted(way.levers.lossy for way in ways)
    assert [(way.levers.micro_batch, way.levers.recompute) for way in ways[:4]] == [(0, 0), (0, 1), (0, 2), (16, 2)]
    assert not any(way.roomy for way in ways), "there is no heap to keep"
    without_norms = list(native_ways(method(norm="nsconv")))
    assert [(way.levers.micro_batch, way.levers.recompute) for way in without_norms[:3]] == [
        (0, 0),
        (16, 0),
        (0, 2),
    ]


@needs_native
def test_tighter_limits_pull_more_levers_until_nothing_fits():
    own, board = method(), shipped("native")
    ways = plan_task(own, board, 10**9, 500, growing=()).forecasts
    chosen = [
        plan_task(own, board, limit, 500, growing=()).chosen for limit in range(90_000_000, 40_000_000, -1_000_000)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert len(set(chosen)) >= 4
    last = plan_task(own, board, 40_000_000, 500, growing=())
    assert not last.fits
    assert last.missing_bytes == int(last.forecast.peak_bytes * MARGIN) - 40_000_000
    assert last.tighter(0) is not None
    assert ways[0].step_seconds < ways[2].step_seconds, "computing again takes time"


@needs_native
@pytest.mark.parametrize(
    "settings",
    [
        StepSettings(0.1),
        StepSettings(0.1, levers=Levers(5, recompute=2)),
        StepSettings(0.1, levers=Levers(activation_keep=0.3, cache="fp16", recompute=1)),
    ],
)
def test_the_arena_is_as_foretold(settings):
    graph = build(ModelSettings("resnet8", (3, 32, 32), 10, {}))
    counts = erk_counts(graph.maskable_shapes, 0.1)
    told = NativeSteps(graph, counts).step_bytes(16, settings)
    engine = new_engine("native")
    engine.load(graph, graph.initial_params(0), erk_mask(graph.maskable_shapes, 0.1, np.random.default_rng(0)))
    engine.train_step(*batch(graph, 16), settings)
    assert 0 <= engine._network.arena_bytes - told < 4096  # a page


@needs_native
def test_active_weights_and_growth_are_planned_for():
    own, board = method(growth_batch=128), shipped("native")
    sizes = {name: own.problem.graph.params[name].size for name in own.problem.graph.maskable}
    sparse, dense = (plan_task(own, board, 10**9, 500, growing=(), active=a).forecasts[0] for a in (None, sizes))
    assert dense.peak_bytes > sparse.peak_bytes
    assert dense.step_seconds > 2 * sparse.step_seconds
    growing = plan_task(own, board, 10**9, 500, growing=tuple(sizes)).forecasts[0]
    assert growing.peak_bytes > 1.5 * sparse.peak_bytes, "four training batches in one pass"


def test_without_the_engine_there_is_no_plan(monkeypatch):
    monkeypatch.setattr(native_facts, "fault", lambda: "is not installed")
    with pytest.raises(ConfigError, match="'native' is not installed"):
        plan_task(method(), shipped("native"), 10**9, 500)


@needs_native
def test_the_planner_knows_the_engines_lanes():
    """It plans for boards where there is no engine, too: so it has a number of its own."""
    import sparse_engine

    assert native_plan.LANES == sparse_engine.LANES
