"""Whether a task fits: exact levers before lossy ones, and what is missing where nothing fits."""

from __future__ import annotations

import msgspec
import pytest

from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.planning.cost_model import CostModel
from tinyfleet.fedcore.planning.method_steps import LEAST_NORM_BATCH
from tinyfleet.fedcore.planning.plan import MARGIN
from tinyfleet.fedcore.planning.planner import plan_task
from tinyfleet.fedcore.planning.torch_plan import replayed_ways, step_features
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings

BOARD = CostModel("torch", 2.4e8, 2e7, 0.8, 1.1, 5.0, 1e-3, 9e-3, 3e-3, 2e-2, 4e-3, 1e-2)


def method(name="fedtiny", norm="batch", batch=64, **settings):
    model = ModelSettings("resnet18", (3, 32, 32), 10, {"norm": norm})
    spec = RunSpec(method={"name": name, **settings}, model=model, training=TrainingSettings(batch=batch))
    return create(spec.method, problem_of(spec))


def test_exact_ways_come_first_then_lossier_ones():
    ways = list(replayed_ways(method()))
    levers = [way.levers for way in ways]
    assert [lever.micro_batch for lever in levers[:6]] == [0, 0, 32, 16, 8, 4]
    assert [way.roomy for way in ways] == [True] + [False] * 20
    assert levers[5].micro_batch == LEAST_NORM_BATCH
    assert [lever.lossy for lever in levers] == [False] * 6 + [True] * 15
    assert [lever.activation_keep for lever in levers[6::5]] == [0.5, 0.3, 0.2]
    assert [way.levers.micro_batch for way in replayed_ways(method(norm="nsconv"))][:8] == [
        0,
        0,
        32,
        16,
        8,
        4,
        2,
        1,
    ]
    assert next(replayed_ways(method(batch=2))).levers.micro_batch == 0


@pytest.mark.parametrize("name", ["fedavg", "fedtiny", "fedmef", "tinyfleet"])
def test_tighter_limits_pull_more_levers_until_nothing_fits(name):
    own = method(name)
    plans = [plan_task(own, BOARD, limit, 500) for limit in range(900_000_000, 200_000_000, -20_000_000)]
    order = [list(replayed_ways(own)).index(p.forecast.way) for p in plans if p.fits]
    assert order == sorted(order)
    assert plans[0].levers.micro_batch == 0
    assert plans[0].fits
    assert all(p.forecast.peak_bytes * MARGIN <= p.limit_bytes for p in plans if p.fits)
    last = plans[-1]
    assert not last.fits
    assert last.missing_bytes == int(last.forecast.peak_bytes * MARGIN) - last.limit_bytes > 0


def test_methods_that_prune_their_caches_fit_whole_batches_where_others_must_split():
    own = method("fedmef", "nsconv")
    limit = int(MARGIN * plan_task(own, BOARD, 2_000_000_000, 500, first_way=1, growing=()).forecast.peak_bytes) + 1
    fedtiny, fedmef = (plan_task(each, BOARD, limit, 500, growing=()) for each in (method("fedtiny"), own))
    assert fedtiny.fits
    assert fedtiny.levers.micro_batch > 0
    assert fedmef.fits
    assert fedmef.levers.micro_batch == 0


def test_rounds_cost_their_steps():
    own = method(batch=50)
    one, two = (plan_task(own, BOARD, 2_000_000_000, samples) for samples in (1000, 2000))
    assert one.round_seconds == pytest.approx(20 * one.forecast.step_seconds)
    assert two.round_seconds == pytest.approx(2 * one.round_seconds)
    assert two.forecast.peak_bytes - one.forecast.peak_bytes == 2 * 1000 * (3 * 32 * 32 + 8)
    slow = msgspec.structs.replace(BOARD, second_gflop=BOARD.second_gflop * 10)
    assert plan_task(own, slow, 2_000_000_000, 1000).round_seconds > 3 * one.round_seconds


def test_what_is_known_to_be_too_much_is_not_tried_again():
    own = method()
    first = plan_task(own, BOARD, 2_000_000_000, 500)
    assert first.chosen == 0
    later = plan_task(own, BOARD, 2_000_000_000, 500, first_way=3)
    assert (later.chosen, later.fits) == (3, True)
    beyond = plan_task(own, BOARD, 2_000_000_000, 500, first_way=99)
    assert beyond.chosen == len(beyond.forecasts) - 1


def test_a_board_that_took_more_than_predicted_plans_for_more():
    own = method()
    limit = int(MARGIN * plan_task(own, BOARD, 2_000_000_000, 500).forecast.peak_bytes) + 1
    assert plan_task(own, BOARD, limit, 500).chosen == 0
    corrected = plan_task(own, BOARD, limit, 500, factor=1.2)
    assert corrected.chosen > 0
    assert corrected.fits


def test_every_tighter_way_takes_less_until_the_last():
    plan = plan_task(method(), BOARD, 2_000_000_000, 500)
    index, peaks = 0, []
    while index is not None:
        peaks.append(plan.forecasts[index].peak_bytes)
        index = plan.tighter(index)
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks) > 5
    assert peaks[-1] == min(forecast.peak_bytes for forecast in plan.forecasts)


def test_a_heap_that_keeps_freed_memory_is_planned_for():
    own, pruned = method("fedtiny"), method("fedmef", "nsconv", activation_keep=0.5)
    for each, least in ((own, 1.3), (pruned, 2.0)):
        roomy, lean = plan_task(each, BOARD, 2_000_000_000, 500, growing=()).forecasts[:2]
        step = BOARD.byte_replayed * step_features(each, lean.way.levers).replayed
        assert roomy.way.roomy
        assert not lean.way.roomy
        assert roomy.peak_bytes - lean.peak_bytes > least * step


def test_growth_gradients_are_planned_for():
    own = method("fedtiny", growth_batch=256)
    layer = own.problem.graph.maskable[0]
    without, of_one, of_any = (
        plan_task(own, BOARD, 3_000_000_000, 500, growing=names).forecasts for names in ((), (layer,), None)
    )
    whole, parts = (
        next(i for i, forecast in enumerate(without) if forecast.way.levers.micro_batch == n) for n in (0, 8)
    )
    assert of_one[whole].peak_bytes > 2 * without[whole].peak_bytes  # four training batches in one pass
    # One layer's inputs and gradients of 256 samples, 64 channels of 32 x 32 each; the step's sums are gone.
    assert of_one[parts].peak_bytes - without[parts].peak_bytes > 1.0 * 2 * 256 * 64 * 32 * 32 * 4
    assert of_any[parts].peak_bytes >= of_one[parts].peak_bytes
    dense = method("fedavg")
    assert (
        plan_task(dense, BOARD, 3_000_000_000, 500).forecasts
        == plan_task(dense, BOARD, 3_000_000_000, 500, growing=()).forecasts
    )
