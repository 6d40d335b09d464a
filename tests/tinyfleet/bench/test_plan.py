"""The benchmark of predictions: its grid, its errors, one real row."""

from __future__ import annotations

import pytest

from tinyfleet.bench.plan import PlanRow, bench_plan, errors, grid, scatter
from tinyfleet.fedcore.planning.cost_model import standard_probes
from tinyfleet.fedcore.planning.cost_model_file import shipped
from tinyfleet.fedcore.planning.probe import Probe
from tinyfleet.fedcore.run_spec import ModelSettings


def row(predicted=110.0, measured=100.0, engine=50.0, predicted_s=1.0, measured_s=2.0):
    return PlanRow("m", "batch", 8, 0, 1.0, "fp32", 0.05, predicted, measured, engine, predicted_s, measured_s)


def test_the_grid_is_large_and_none_of_it_is_fitted_to():
    probes = list(grid())
    assert len(probes) >= 30
    assert len(set(map(str, probes))) == len(probes)
    known = [(p.model, p.batch) for p in standard_probes("torch")]
    assert not [p for p in probes if (p.model, p.batch) in known]
    assert {p.levers.micro_batch > 0 for p in probes} == {p.levers.lossy for p in probes} == {True, False}


def test_errors_are_of_the_peak_and_of_what_the_step_adds():
    assert row().memory_error == pytest.approx(0.1)
    assert row().step_error == pytest.approx(0.2)
    assert row().time_error == pytest.approx(-0.5)
    found = errors([row(), row(predicted=90.0), row(predicted=100.0)])
    assert (found.rows, found.memory_max, found.memory_median) == (3, pytest.approx(0.1), pytest.approx(0.1))


@pytest.mark.slow
def test_a_row_is_really_measured_and_the_plot_written(tmp_path):
    probe = Probe(ModelSettings("small_cnn", (1, 28, 28), 10, {}), 64, steps=1)
    told = []
    (found,) = bench_plan(shipped("torch"), [probe], lambda row, done, total: told.append((done, total)))
    assert told == [(1, 1)]
    assert found.measured_mb > found.engine_mb > 50
    assert abs(found.memory_error) < 0.15
    assert found.measured_s > 0
    scatter([found, row()], tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 5000
