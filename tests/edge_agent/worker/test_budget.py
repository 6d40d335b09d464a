from __future__ import annotations

import importlib.util

import pytest

from tinyfleet.edge_agent.worker.budget import Governor, Stage
from tinyfleet.edge_agent.worker.commands import Chosen
from tinyfleet.fedcore.planning.plan import Way
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.native.facts import NATIVE
from tinyfleet.fedcore.training.torch.facts import TORCH

SPEC = RunSpec(method={"name": "fedtiny", "density": 0.05}, training=TrainingSettings(batch=24))


def governor(path, *, limit=100_000_000, usable=4_000_000_000, policy="auto", free=None, engine="torch"):
    """``free``: a list whose entry is what is usable now, in place of ``usable`` for ever."""
    now = free or [usable]
    return Governor(path, memory_limit_bytes=limit, usable=lambda: now[0], threads=2, policy=policy, engine=engine)


def chosen(index=0, ways=4, peak=90_000_000):
    return Chosen(index, ways, Way(Levers(12)), peak)


def test_the_first_plan_may_fill_what_the_limit_leaves(tmp_path):
    limits = governor(tmp_path / "g.json").limits(SPEC)
    assert (limits.threads, limits.memory_limit_bytes, limits.refusal) == (2, 100_000_000, "")
    assert (limits.target_bytes, limits.first_way, limits.factor) == (92_000_000, 0, 1.0)


def test_what_is_free_when_the_task_comes_bounds_its_plan(tmp_path):
    free = [4_000_000_000]
    tested = governor(tmp_path / "g.json", free=free)
    free[0] = 60_000_000
    assert tested.limits(SPEC).target_bytes == 57_000_000
    assert tested.limits(SPEC, held_bytes=20_000_000).target_bytes == 76_000_000
    assert tested.limits(SPEC).memory_limit_bytes == 100_000_000


def test_each_failure_goes_a_way_down_and_the_last_refuses(tmp_path):
    tested = governor(tmp_path / "g.json")
    limits, tried = tested.limits(SPEC), []
    while not limits.refusal:
        tried.append(limits.first_way)
        limits = tested.over_budget(SPEC, limits, chosen(limits.first_way), Stage.TRAINING)
    assert tried == [0, 1, 2, 3]
    assert "memory_limit" in limits.refusal
    assert "4 tries" in limits.refusal


def test_a_failure_corrects_the_prediction_that_let_it_in(tmp_path):
    tested = governor(tmp_path / "g.json")
    after = tested.over_budget(SPEC, tested.limits(SPEC), chosen(peak=80_000_000), Stage.TRAINING)
    assert after.factor == pytest.approx(1.02 * 100 / 80)
    # Predictions of the next task have it in them: 80 MB were meant, 102 are told.
    again = tested.over_budget(SPEC, after, chosen(1, peak=90_000_000), Stage.TRAINING)
    assert again.factor == pytest.approx(max(after.factor, 1.02 * 100 / 90 * after.factor))


def test_a_task_that_ends_well_tells_how_far_the_prediction_was_off(tmp_path):
    path = tmp_path / "g.json"
    tested = governor(path)
    tested.finished(SPEC, tested.limits(SPEC), chosen(peak=80_000_000), 60_000_000)
    assert governor(path).limits(SPEC).factor == pytest.approx(0.75)
    written = path.stat().st_mtime_ns
    tested.finished(SPEC, tested.limits(SPEC), chosen(peak=60_000_000), 60_500_000)
    assert path.stat().st_mtime_ns == written  # nothing new: the card is spared


def test_what_was_tightened_on_the_way_begins_tight(tmp_path):
    path = tmp_path / "g.json"
    tested = governor(path)
    tested.tightened(SPEC, 2)
    tested.tightened(SPEC, 1)
    assert governor(path).limits(SPEC).first_way == 2
    assert governor(path).limits(SPEC).refusal == ""


def test_a_refusal_for_want_of_memory_now_is_no_refusal_for_ever(tmp_path):
    free = [4_000_000_000]
    tested = governor(tmp_path / "g.json", free=free)
    free[0] = 50_000_000
    tested.refused(SPEC, tested.limits(SPEC))
    assert tested.limits(SPEC).refusal == ""
    free[0] = 4_000_000_000
    tested.refused(SPEC, tested.limits(SPEC))
    assert "1 tries" in tested.limits(SPEC).refusal


def test_a_restart_does_not_repeat_the_failure(tmp_path):
    path = tmp_path / "g.json"
    before = governor(path)
    before.over_budget(SPEC, before.limits(SPEC), chosen(), Stage.TRAINING)
    assert governor(path).limits(SPEC).first_way == 1


def test_a_failure_before_training_cannot_be_helped(tmp_path):
    tested = governor(tmp_path / "g.json")
    assert tested.over_budget(SPEC, tested.limits(SPEC), chosen(), Stage.LOADING).refusal


@pytest.mark.parametrize(
    "other",
    [
        RunSpec(method={"name": "fedtiny", "density": 0.5}, training=SPEC.training),
        RunSpec(method=SPEC.method, training=TrainingSettings(batch=48)),
        RunSpec(method=SPEC.method, training=SPEC.training, model=ModelSettings(name="resnet18")),
        RunSpec(method=SPEC.method, training=SPEC.training, model=ModelSettings(arguments={"width": 64})),
    ],
)
def test_what_is_learned_holds_for_its_kind_alone(tmp_path, other):
    tested = governor(tmp_path / "g.json")
    tested.over_budget(SPEC, tested.limits(SPEC), chosen(), Stage.TRAINING)
    assert tested.limits(other).first_way == 0
    near = RunSpec(method={"name": "fedtiny", "density": 0.055}, training=SPEC.training)
    assert tested.limits(near).first_way == 1


def test_a_larger_limit_starts_afresh(tmp_path):
    path = tmp_path / "g.json"
    before = governor(path)
    before.over_budget(SPEC, before.limits(SPEC), chosen(), Stage.LOADING)
    assert governor(path, limit=200_000_000).limits(SPEC).refusal == ""


@pytest.mark.parametrize("density", ["0.05", 0, -1, None, [1]])
def test_a_density_that_makes_no_sense_is_left_to_the_method(tmp_path, density):
    spec = RunSpec(method={"name": "fedtiny", "density": density})
    assert governor(tmp_path / "g.json").limits(spec).refusal == ""


def test_a_damaged_history_is_an_empty_one(tmp_path):
    path = tmp_path / "g.json"
    path.write_bytes(b'{"x": {"first_way": "no"}}')
    assert governor(path).limits(SPEC).first_way == 0


def test_the_limit_comes_from_the_board_where_none_is_set(tmp_path):
    assert governor(tmp_path / "g.json", limit=0, usable=400_000_000).memory_limit_bytes == 300_000_000


@pytest.mark.parametrize(
    ("limit", "usable", "policy", "expected"),
    [
        (300_000_000, 3 * TORCH.warm_bytes, "auto", "warm"),
        (300_000_000, 3 * TORCH.warm_bytes - 1, "auto", "fresh"),
        (60_000_000, 200_000_000, "auto", "warm"),
        (300_000_000, 350_000_000, "warm", "warm"),
        (300_000_000, 8_000_000_000, "fresh", "fresh"),
    ],
)
def test_policy(tmp_path, limit, usable, policy, expected):
    made = governor(tmp_path / "g.json", limit=limit, usable=usable, policy=policy, engine="torch")
    assert made.policy == expected


@pytest.mark.parametrize("engine", ["native", "auto"])
def test_the_native_engine_may_stay_on_a_smaller_board(tmp_path, monkeypatch, engine):
    least = 3 * NATIVE.warm_bytes
    pytest.importorskip("sparse_engine")
    assert governor(tmp_path / "g.json", limit=300_000_000, usable=least, engine=engine).policy == "warm"
    assert governor(tmp_path / "g.json", limit=300_000_000, usable=least - 1, engine=engine).policy == "fresh"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    expected = "warm" if engine == "native" else "fresh"
    assert governor(tmp_path / "g.json", limit=300_000_000, usable=least, engine=engine).policy == expected


def test_what_a_roomy_heap_took_does_not_correct_predictions(tmp_path):
    tested = governor(tmp_path / "g.json")
    roomy = Chosen(0, 4, Way(roomy=True), 80_000_000)
    tested.finished(SPEC, tested.limits(SPEC), roomy, 40_000_000)
    assert tested.limits(SPEC).factor == 1.0
    after = tested.over_budget(SPEC, tested.limits(SPEC), roomy, Stage.TRAINING)
    assert (after.first_way, after.factor) == (1, 1.0)
