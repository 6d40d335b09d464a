from __future__ import annotations

import pytest

from edge_agent.governor import WARM_WORKER_BYTES, Governor, Stage
from fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings

SPEC = RunSpec(method={"name": "fedtiny", "density": 0.05}, training=TrainingSettings(batch=24))


def governor(path, *, limit=100_000_000, usable=4_000_000_000, policy="auto"):
    return Governor(path, memory_limit_bytes=limit, usable_bytes=usable, threads=2, policy=policy, engine="torch")


def test_the_first_plan_is_the_whole_batch(tmp_path):
    plan = governor(tmp_path / "g.json").plan(SPEC)
    assert (plan.micro_batch, plan.threads, plan.memory_limit_bytes, plan.refusal) == (0, 2, 100_000_000, "")


def test_each_failure_halves_down_to_one_and_then_refuses(tmp_path):
    tested = governor(tmp_path / "g.json")
    plan, sizes = tested.plan(SPEC), []
    while not plan.refusal:
        sizes.append(plan.micro_batch)
        plan = tested.over_budget(SPEC, plan, Stage.TRAINING)
    assert sizes == [0, 12, 6, 3, 1]
    assert "memory_limit" in plan.refusal
    assert "5 tries" in plan.refusal


def test_a_restart_does_not_repeat_the_failure(tmp_path):
    path = tmp_path / "g.json"
    before = governor(path)
    before.over_budget(SPEC, before.plan(SPEC), Stage.TRAINING)
    assert governor(path).plan(SPEC).micro_batch == 12


def test_a_failure_before_training_cannot_be_helped(tmp_path):
    tested = governor(tmp_path / "g.json")
    assert tested.over_budget(SPEC, tested.plan(SPEC), Stage.LOADING).refusal


@pytest.mark.parametrize(
    "other",
    [
        RunSpec(method={"name": "fedtiny", "density": 0.5}, training=SPEC.training),
        RunSpec(method=SPEC.method, training=TrainingSettings(batch=48)),
        RunSpec(method=SPEC.method, training=SPEC.training, model=ModelSettings(name="resnet18")),
    ],
)
def test_what_is_learned_holds_for_its_kind_alone(tmp_path, other):
    tested = governor(tmp_path / "g.json")
    tested.over_budget(SPEC, tested.plan(SPEC), Stage.TRAINING)
    assert tested.plan(other).micro_batch == 0
    near = RunSpec(method={"name": "fedtiny", "density": 0.055}, training=SPEC.training)
    assert tested.plan(near).micro_batch == 12


def test_a_larger_limit_starts_afresh(tmp_path):
    path = tmp_path / "g.json"
    before = governor(path)
    before.over_budget(SPEC, before.plan(SPEC), Stage.LOADING)
    assert governor(path, limit=200_000_000).plan(SPEC).refusal == ""


@pytest.mark.parametrize("density", ["0.05", 0, -1, None, [1]])
def test_a_density_that_makes_no_sense_is_left_to_the_method(tmp_path, density):
    spec = RunSpec(method={"name": "fedtiny", "density": density})
    assert governor(tmp_path / "g.json").plan(spec).refusal == ""


def test_a_damaged_history_is_an_empty_one(tmp_path):
    path = tmp_path / "g.json"
    path.write_bytes(b'{"x": {"micro_batch": "no"}}')
    assert governor(path).plan(SPEC).micro_batch == 0


def test_the_limit_comes_from_the_board_where_none_is_set(tmp_path):
    assert governor(tmp_path / "g.json", limit=0, usable=400_000_000).memory_limit_bytes == 300_000_000


@pytest.mark.parametrize(
    ("limit", "usable", "policy", "expected"),
    [
        (300_000_000, 3 * WARM_WORKER_BYTES, "auto", "warm"),
        (300_000_000, 3 * WARM_WORKER_BYTES - 1, "auto", "fresh"),
        (60_000_000, 200_000_000, "auto", "warm"),
        (300_000_000, 350_000_000, "warm", "warm"),
        (300_000_000, 8_000_000_000, "fresh", "fresh"),
    ],
)
def test_policy(tmp_path, limit, usable, policy, expected):
    assert governor(tmp_path / "g.json", limit=limit, usable=usable, policy=policy).policy == expected
