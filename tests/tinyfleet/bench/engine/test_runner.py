"""Sparse against dense steps: what is asked for, what the child processes answer, what a person reads."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("sparse_engine")

from tinyfleet.bench.engine import arms
from tinyfleet.bench.engine.arms import VARIANTS, fastest, native_arm, settings_of
from tinyfleet.bench.engine.cells import EngineCell, cells, chosen
from tinyfleet.bench.engine.native_arm import Drawn, model_from, positions
from tinyfleet.bench.engine.runner import bench_engine
from tinyfleet.cli.app import app
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.native.model import model_of

SMALL = EngineCell("resnet8", 0.05, 2)


def test_targets_belong_to_resnet18_at_batch_64():
    fast = {cell.density: cell.speedup_target for cell in cells() if cell.speedup_target}
    assert fast == {0.01: 8.0, 0.05: 5.0, 0.1: 3.5}
    memory = {
        (cell.levers.micro_batch, cell.levers.activation_keep): cell.peak_target_mb
        for cell in cells()
        if cell.peak_target_mb
    }
    assert memory == {(0, 1.0): 200.0} | {(n, keep): mb for n in (8, 4) for keep, mb in ((1.0, 200.0), (0.3, 60.0))}


def test_cells_are_chosen_by_model_density_and_threads():
    assert {cell.threads for cell in chosen(["resnet18"], [0.01], [2])} == {2}
    assert chosen() == list(cells())
    assert not chosen(["resnet18"], [0.5])
    assert len(set(cells())) == len(list(cells()))


def test_masks_hold_just_their_share_and_are_the_same_whenever_they_are_drawn():
    graph = build(settings_of(EngineCell("resnet20", 0.05)))
    model = model_of(graph)
    maskable = [name.removesuffix(".weight") for name in graph.maskable_shapes]
    masks = Drawn(model, maskable, 0.05, masks=True)
    for name, shape in graph.maskable_shapes.items():
        mask = masks[name]
        assert mask.shape == shape
        assert mask.sum() == int(0.05 * mask.size)
        assert np.array_equal(mask, masks[name])
    assert masks.get("stem.weight") is None  # stays dense, as in every method
    params = Drawn(model, maskable, 0.05, masks=False)
    assert all(params[name].shape == spec.shape for name, spec in graph.params.items())


@pytest.mark.parametrize(("size", "count"), [(100, 1), (100, 60), (100, 100)])
def test_positions_are_distinct_and_ascending(size, count):
    found = positions(np.random.default_rng(0), size, count)
    assert len(found) == count
    assert np.all(np.diff(found) > 0)
    assert found[0] >= 0
    assert found[-1] < size


def test_a_model_survives_json():
    model = model_of(build(settings_of(SMALL)))
    assert model_from(json.loads(json.dumps(dataclasses.asdict(model)))) == model


@pytest.fixture(scope="module")
def row():
    (found,) = bench_engine([SMALL], 1, lambda text: None, VARIANTS[-1:])
    return found


@pytest.mark.slow
def test_a_row_has_both_engines_figures(row):
    assert row.speedup == pytest.approx(row.torch_dense_s / row.ours_s)
    assert 20 < row.ours_peak_rss_mb < 100  # no torch in it
    assert row.torch_peak_rss_mb > 150
    assert row.torch_variant == str(VARIANTS[-1]) == "contiguous, default malloc"
    assert min(row.ours_first_step_s, row.torch_first_step_s) > 0


def test_memory_levers_reach_the_engine():
    lean = EngineCell(
        "resnet8", 0.05, 4, levers=Levers(2, activation_keep=0.5, cache="fp16", recompute=1), pruned_norm=True
    )
    with native_arm(lean) as arm:
        assert arm.step() > 0
        assert arm.peak_bytes > 0


def test_the_fastest_variant_is_taken(monkeypatch):
    class Timed:
        def __init__(self, cell, variant):
            self.seconds = iter([9.0, 3.0 if variant == VARIANTS[1] else 4.0, 5.0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def step(self):
            return next(self.seconds)

    monkeypatch.setattr(arms, "torch_arm", Timed)
    assert fastest(SMALL, 2, VARIANTS) == VARIANTS[1]


def test_an_arm_that_ends_is_an_error(capfd):
    with pytest.raises(DataError, match="native engine ended with code 1"):
        native_arm(EngineCell("resnet8", 0.05, 2, levers=Levers("many")))
    assert "TypeError" in capfd.readouterr().err


@pytest.mark.slow
def test_the_command_writes_rows_and_says_which_targets_are_met(row, tmp_path, monkeypatch):
    reached = dataclasses.replace(row, speedup=9.0, speedup_target=8.0, peak_target_mb=1.0)
    monkeypatch.setattr("tinyfleet.bench.engine.runner.bench_engine", lambda *_: [reached])
    file = tmp_path / "engine.json"
    result = CliRunner().invoke(app, ["bench", "engine", "--quick", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert ">= 8 met" in result.output
    assert "<= 1 not met" in result.output
    (written,) = json.loads(file.read_text())
    assert list(written)[:11] == [
        "model", "density", "batch", "micro_batch", "keep", "threads",
        "ours_s", "torch_dense_s", "speedup", "ours_peak_rss_mb", "torch_peak_rss_mb",
    ]  # fmt: skip
