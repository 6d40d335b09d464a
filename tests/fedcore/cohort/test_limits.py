"""How far one of many can move a step: by its weight, its update, its gradients, its statistics, its losses."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from tests.coordinator.toy import NO_DATA, create_toy, toy_spec
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.cohort.limits import LEAST_LIMITED, Limit, limited, limits
from tinyfleet.fedcore.cohort.measure import Measured
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings


def one(samples=100, losses=(), mean=0.0, variance=1.0, evidence=1.0, **moves):
    return Measured(
        samples,
        {"w": 1.0, "bias": 0.1} | moves,
        {"w": 0.05, "bias": 0.0},
        {"w": evidence},
        {"n.running_mean": np.full(3, mean, np.float32)},
        {"n.running_var": np.full(3, variance, np.float32)},
        tuple(losses),
    )


def found(odd, size=10, influence=3.0, **common):
    """The limit of ``odd`` among ``size`` that are alike otherwise; nobody else has one."""
    given = limits({(0, f"d{i}"): one(**common) for i in range(size - 1)} | {(0, "odd"): odd}, influence)
    assert given.keys() <= {(0, "odd")}
    return given.get((0, "odd"))


def test_whoever_is_like_all_others_is_left_alone():
    assert found(one(samples=300)) is None
    assert found(one(w=3.0, bias=0.3, evidence=3.0)) is None
    assert found(one(mean=0.02, variance=1.02)) is None


def test_a_weight_is_cut_to_so_many_median_ones():
    assert found(one(samples=1 << 28)).samples == 300
    assert found(one(samples=1 << 28), influence=1.0).samples == 100


def test_an_update_is_cut_array_by_array_and_with_more_weight_the_more():
    assert found(one(bias=3.0)).update == {"bias": pytest.approx(0.1)}
    assert found(one(samples=200, w=6.0)).update["w"] == pytest.approx(0.25)
    assert found(one(samples=10, w=6.0)).update == {
        "w": 0.5
    }  # where devices have masks of their own, weight is no help


def test_what_hardly_anybody_moves_has_a_floor():
    assert found(one(w=0.15), w=0.001) is None
    assert found(one(w=0.3), w=0.001).update == {"w": pytest.approx(0.5)}


def test_gradients_are_cut_layer_by_layer():
    assert found(one(evidence=1000.0)).evidence == {"w": pytest.approx(0.003)}


def test_statistics_are_drawn_to_where_the_cohort_stands():
    spread = [one(mean=0.1 * i, variance=1.0 + 0.1 * i) for i in range(-2, 3)]
    shifted = one(mean=6.0, variance=9.0)
    given = limits({(0, f"d{i}"): device for i, device in enumerate((*spread, shifted))}, 3.0)
    limit = given[0, "d5"]
    sent = Payload(
        {"samples": 100}, {n: np.full(3, v, np.float32) for n, v in (("n.running_mean", 6), ("n.running_var", 9))}
    )
    left = limited(Payload(), sent, limit).params
    middle, usual = 0.05, statistics.median((0.25, 0.15, 0.05, 0.05, 0.15, 5.95))
    assert left["n.running_mean"] == pytest.approx(np.full(3, middle + 3.0 * usual), rel=1e-3)
    assert left["n.running_var"] == pytest.approx(np.full(3, 1.0 + middle + 3.0 * usual), rel=1e-3)


def test_where_all_have_one_statistic_a_hundredth_of_a_deviation_is_no_excess():
    assert found(one(mean=0.03)) is None
    assert found(one(mean=0.06)).centred["n.running_mean"] == pytest.approx(0.5, rel=1e-3)


def test_of_losses_only_the_differences_between_candidates_count():
    assert found(one(losses=(5.0, 5.1)), losses=(2.0, 2.1)) is None
    limit = found(one(losses=(0.0, 10.0)), losses=(2.0, 2.1))
    held = limited(Payload(), Payload({"losses": [0.0, 10.0]}), limit).meta["losses"]
    assert held[1] - held[0] == pytest.approx(0.1, abs=0.2)
    assert sum(held) == pytest.approx(10.0)


def test_of_few_none_is_limited():
    assert found(one(samples=1 << 28), size=LEAST_LIMITED - 1) is None
    assert found(one(samples=1 << 28), size=LEAST_LIMITED) is not None


def test_half_of_all_cannot_raise_the_limits():
    odd = {(0, f"x{i}"): one(samples=1 << 28, w=1e6) for i in range(4)}
    given = limits({(0, f"d{i}"): one() for i in range(5)} | odd, 3.0)
    assert given.keys() == odd.keys()
    assert {limit.samples for limit in given.values()} == {300}


def test_what_is_cut_keeps_its_direction():
    task = Payload({}, {"w": np.array([1.0, 2.0], np.float32)})
    result = Payload(
        {"samples": 9, "square_scales": {"v": 4.0}},
        {"w": np.array([3.0, -2.0], np.float32), "v^2": np.ones(2, np.float32)},
        {},
        {"w": SparseVector(np.array([1]), np.array([2048.0], np.float32))},
    )
    found = limited(task, result, Limit(3, {"w": 0.5}, {"w": 0.25, "v^2": 0.5}))
    assert found.params["w"].tolist() == [2.0, 0.0]
    assert found.gradients["w"].values.tolist() == [256.0]  # of the 1024 that a fold takes
    assert found.meta == {"samples": 3, "square_scales": {"v": 2.0}}
    assert result.params["w"].tolist() == [3.0, -2.0]


def test_under_a_mask_of_its_own_what_it_does_not_hold_stays_zero():
    task = Payload({}, {"w": np.array([1.0, 2.0], np.float32)})
    result = Payload({"samples": 9}, {"w": np.array([0.0, 4.0], np.float32)}, {"w": np.array([False, True])})
    assert limited(task, result, Limit(9, {"w": 0.5})).params["w"].tolist() == [0.0, 3.0]


# -- in a step --------------------------------------------------------------------------

DEVICES = ("a", "b", "c", "d", "e", "x")


def step(order, change=lambda result, task: result, fleet=None):
    """Bytes of the state after a toy step, in which ``x`` sends what ``change`` makes of its result."""
    method = create_toy(toy_spec())
    state = method.initial_state(None, NO_DATA)
    task = method.configure_round(state)
    fold = StepFold(method, state, lambda digest: None, lambda: (), fleet or FleetSettings(influence_limit=4.0))
    for device in order:
        answer = method.answer(task, device)
        answer.meta["samples"] = 30
        fold.add(0, device, codec.encode(change(answer, task) if device == "x" else answer, precision="fp32"))
    return codec.encode(fold.finish(), precision="fp32"), fold.judgement


def nine_times(result, task):
    params = {n: task.params[n] - np.float32(9.0) * (v - task.params[n]) for n, v in result.params.items()}
    return Payload(result.meta | {"samples": 1 << 28}, params, result.mask)


def test_an_honest_step_is_the_plain_mean_to_the_bit():
    off = FleetSettings(norm_limit=0.0, influence_limit=0.0)
    assert step(DEVICES)[0] == step(DEVICES, fleet=off)[0]


def test_a_limited_result_counts_alike_in_any_order():
    assert (
        len({step(order, nine_times)[0] for order in itertools.islice(itertools.permutations(DEVICES), 0, 720, 97)})
        == 1
    )


def test_one_of_six_cannot_turn_the_step_round():
    honest, judgement = step(DEVICES)
    assert not judgement.limits
    poisoned, judgement = step(DEVICES, nine_times, FleetSettings(influence_limit=3.0))
    assert not judgement.refused
    assert list(judgement.limits) == [(0, "x")]
    method = create_toy(toy_spec())
    start = method.initial_state(None, NO_DATA).params
    went, goes = (codec.decode(blob).params for blob in (honest, poisoned))
    along = sum(float(((went[name] - start[name]) * (goes[name] - start[name])).sum()) for name in start)
    assert along > 0


def test_the_loss_that_a_step_reports_is_not_one_devices():
    boast = step(DEVICES, lambda result, task: Payload(result.meta | {"loss": 1e8}, result.params, result.mask))[0]
    assert codec.decode(boast).meta["metrics"]["loss"] == pytest.approx(0.5, rel=0.01)
