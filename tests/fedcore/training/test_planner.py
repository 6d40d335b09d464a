"""Whether a task fits: exact levers before lossy ones, and what is missing where nothing fits."""

from __future__ import annotations

import msgspec
import pytest

from fedcore.methods.registry import create, problem_of
from fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from fedcore.training.calibration import Calibration
from fedcore.training.planner import LEAST_NORM_BATCH, MARGIN, ladder, plan

BOARD = Calibration("torch", 2.4e8, 2e7, 0.8, 1.1, 5.0, 1e-3, 9e-3, 3e-3, 2e-2, 4e-3, 1e-2)


def method(name="fedtiny", norm="batch", batch=64, **settings):
    model = ModelSettings("resnet18", (3, 32, 32), 10, {"norm": norm})
    spec = RunSpec(method={"name": name, **settings}, model=model, training=TrainingSettings(batch=batch))
    return create(spec.method, problem_of(spec))


def test_the_ladder_is_exact_first_then_lossier():
    levers = list(ladder(method()))
    assert [lever.micro_batch for lever in levers[:5]] == [0, 32, 16, 8, 4]
    assert levers[4].micro_batch == LEAST_NORM_BATCH
    assert [lever.lossy for lever in levers] == [False] * 5 + [True] * 15
    assert [lever.keep for lever in levers[5::5]] == [0.5, 0.3, 0.2]
    assert [lever.micro_batch for lever in ladder(method(norm="nsconv"))][:7] == [0, 32, 16, 8, 4, 2, 1]
    assert next(ladder(method(batch=2))).micro_batch == 0


@pytest.mark.parametrize("name", ["fedavg", "fedtiny", "fedmef", "tinyfleet"])
def test_tighter_limits_pull_more_levers_until_nothing_fits(name):
    own = method(name)
    plans = [plan(own, BOARD, limit, 500) for limit in range(900_000_000, 200_000_000, -20_000_000)]
    order = [list(ladder(own)).index(p.forecast.levers) for p in plans if p.fits]
    assert order == sorted(order)
    assert plans[0].forecast.levers.micro_batch == 0
    assert plans[0].fits
    assert all(p.forecast.peak_bytes * MARGIN <= p.limit_bytes for p in plans if p.fits)
    last = plans[-1]
    assert not last.fits
    assert last.missing_bytes == int(last.forecast.peak_bytes * MARGIN) - last.limit_bytes > 0


def test_methods_that_prune_their_caches_fit_whole_batches_where_others_must_split():
    own = method("fedmef", "nsconv")
    limit = int(MARGIN * plan(own, BOARD, 2_000_000_000, 500).forecast.peak_bytes) + 1
    fedtiny, fedmef = plan(method("fedtiny"), BOARD, limit, 500), plan(own, BOARD, limit, 500)
    assert fedtiny.fits
    assert fedtiny.forecast.levers.micro_batch > 0
    assert fedmef.fits
    assert fedmef.forecast.levers.micro_batch == 0


def test_rounds_cost_their_steps():
    own = method(batch=50)
    one, two = (plan(own, BOARD, 2_000_000_000, samples) for samples in (1000, 2000))
    assert one.round_seconds == pytest.approx(20 * one.forecast.step_seconds)
    assert two.round_seconds == pytest.approx(2 * one.round_seconds)
    assert two.forecast.peak_bytes - one.forecast.peak_bytes == 1000 * (3 * 32 * 32 + 8)
    slow = msgspec.structs.replace(BOARD, second_gflop=BOARD.second_gflop * 10)
    assert plan(own, slow, 2_000_000_000, 1000).round_seconds > 3 * one.round_seconds
