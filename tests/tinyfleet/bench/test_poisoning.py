"""What hostile devices send, that the bench takes up where it was cut short, and that one of ten costs little."""

from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.bench.poisoning import runner
from tinyfleet.bench.poisoning.attacks import ATTACKS, Scene, near_the_crowd
from tinyfleet.bench.poisoning.devices import flipped, written
from tinyfleet.bench.poisoning.runner import (
    METHODS,
    SEEDS,
    TUNING_SEED,
    PoisoningCell,
    bench_poisoning,
    job,
    read_rows,
    run_cell,
)
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.training import registry


def result(*values, samples=10, **meta):
    params = {
        "w": np.array(values, np.float32),
        "o.bias": np.zeros(2, np.float32),
        "n.running_mean": np.ones(1, np.float32),
        "n.running_var": np.full(1, 4.0, np.float32),
    }
    return Payload({"samples": samples} | meta, params)


@pytest.fixture
def scene():
    """Training moved w by 2 here; honest devices' updates are 2, 1 and 3."""
    task = result(1.0, 1.0)
    return Scene(task, result(3.0, 3.0), [result(3.0, 3.0), result(2.0, 2.0), result(4.0, 4.0)], 1)


def test_attacks_do_what_their_names_say(scene):
    sent = {name: attack(scene) for name, attack in ATTACKS.items()}
    assert sent["update reversed"].params["w"].tolist() == [-1.0, -1.0]
    assert sent["update reversed"].params["n.running_var"] == 4.0
    assert sent["update x -9"].params["w"].tolist() == [-17.0, -17.0]
    assert sent["zeros, samples 2^28"].meta["samples"] == 1 << 28
    assert sent["reversed, samples x 100"].meta["samples"] == 1000
    assert sent["running variance -1"].params["n.running_var"] == -1.0
    assert sent["running variance -1"].params["w"].tolist() == [3.0, 3.0]
    assert sent["statistics shifted"].params["n.running_mean"] == 7.0
    assert np.isnan(sent["not a number"].params["w"]).all()
    assert sent["inner product x -1"].params["w"].tolist() == [-1.0, -1.0]
    assert sent["a little is enough"].params["w"] == pytest.approx(np.full(2, 3.0 - 1.5 * np.sqrt(2 / 3)))
    assert sent["all in one bias"].params["o.bias"] == pytest.approx([3 * np.sqrt(8), 0.0])
    assert sent["all in one bias"].params["w"].tolist() == [1.0, 1.0]


def test_the_farthest_that_is_not_seen_is_found(scene):
    sent = near_the_crowd(scene).params["w"].astype(np.float64)
    farthest = max(float(np.linalg.norm(sent - one.params["w"])) for one in scene.honest)
    assert farthest == pytest.approx(np.sqrt(8), rel=1e-4)  # of the honest ones 2 and 4 lie farthest apart
    assert (sent < 3.0).all()


def test_what_points_across_is_a_reversed_update_without_its_part_against_the_others():
    task, own = result(0.0, 0.0), result(1.0, 1.0)
    sent = ATTACKS["x -9, across"](Scene(task, own, [result(1.0, 0.0), result(3.0, 0.0)], 1)).params["w"]
    assert sent == pytest.approx([0.2, -9.0])


def test_growth_is_asked_for_where_nobody_needs_it():
    def grown(*positions):
        where = np.array(positions, np.int64)
        return Payload({}, {}, {}, {"w": SparseVector(where, np.ones(len(where), np.float32))})

    mask = {"w": np.array([True, False, False, False, False, False])}
    found = ATTACKS["wrong growth"](Scene(Payload({}, {}, mask), grown(1, 2), [grown(1, 3), grown(2, 3)], 1))
    assert found.gradients["w"].positions.tolist() == [4, 5]
    assert (found.gradients["w"].values == 1000.0).all()


def test_the_choice_of_a_candidate_is_turned_round():
    own = Payload({"losses": [1.0, 3.0], "samples": 5})
    found = ATTACKS["wrong choice"](Scene(own, own, [], 1)).meta
    assert (found["losses"], found["samples"]) == ([30.0, 10.0], 500)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_no_encoder_writes_arrives_and_is_refused(value):
    method = create({"name": "fedavg"}, problem_of(job(TUNING_SEED)))
    params = method.problem.graph.initial_params(0)
    first = next(iter(params))
    params[first] = params[first].copy()
    params[first].flat[0] = value
    blob = written(Payload({"step": 0, "samples": 1}, params), send_mask=False)
    with pytest.raises(CodecError, match="not finite"):
        decode(blob)


def test_labels_are_counted_from_the_other_end():
    part = Dataset(np.zeros((3, 1)), np.array([0, 1, 9]), 10)
    assert flipped(DeviceData("a", part, part)).train.y.tolist() == [9, 8, 0]


def test_limits_were_not_tuned_on_what_is_reported():
    assert TUNING_SEED not in SEEDS
    assert len(SEEDS) >= 3


def test_what_was_run_is_not_run_again(tmp_path, monkeypatch):
    ran = []

    def instant(cell, seeds, engine):
        ran.append(cell)
        return runner.PoisoningRow(
            cell.method, cell.aggregate, cell.attack, cell.share, list(seeds), [0.9], [0], [0]
        )

    monkeypatch.setattr(runner, "run_cell", instant)
    first, second = PoisoningCell("fedavg", "mean", "", 0.0), PoisoningCell("fedavg", "mean", "zeros", 0.1)
    file = tmp_path / "rows.json"
    assert len(list(bench_poisoning([first], [1], None, file))) == 1
    rows = list(bench_poisoning([first, second], [1], None, file))
    assert [row.cell for row in rows] == [first, second]
    assert ran == [first, second]
    assert read_rows(file) == rows
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="another file"):
        list(bench_poisoning([first], [1], None, file))
    with pytest.raises(ConfigError, match="none of"):
        list(bench_poisoning([PoisoningCell("fedavg", "mean", "rudeness", 0.1)], [1], None))


@pytest.fixture(scope="module")
def engine():
    return registry.create("auto", 1)


@pytest.fixture(scope="module")
def honest(engine):
    return run_cell(PoisoningCell("fedavg", "mean", "", 0.0), (TUNING_SEED,), engine)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_one_hostile_device_of_ten_costs_two_points_at_most(engine, honest, attack):
    row = run_cell(PoisoningCell("fedavg", "mean", attack, 0.1), (TUNING_SEED,), engine)
    assert row.refused_honest == honest.refused_honest == [0]
    assert row.lost(honest) <= 2.0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_no_honest_device_is_refused_whatever_the_method(engine, method):
    assert run_cell(PoisoningCell(method, "mean", "", 0.0), (TUNING_SEED,), engine).refused_honest == [0]
