"""FedTiny step by step against its specification, and against the defects of public versions."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.methods.parts import bn_selection, progressive
from tinyfleet.fedcore.methods.registry import create
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol.codec import quantise
from tinyfleet.fedcore.sparsity.mask import active_counts, density, largest, magnitude_mask

SETTINGS = {"name": "fedtiny", "density": 0.2, "candidates": 4, "interval": 1, "stop": 9}


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def fedtiny(rounds=6, **settings):
    return create({**SETTINGS, **settings}, problem(rounds))


def trained_state(method, engine):
    """The state after both selection stages."""
    state = method.initial_state(engine, dataset(96, 1))
    while state.meta["stage"] != "train":
        state, _ = run_step(method, engine, state, devices())
    return state


# -- adaptive batch-norm selection -------------------------------------------------------


def test_the_pool_is_nested_magnitude_masks_of_the_quantised_parent(engine):
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    pool = state.meta["candidates"]
    assert state.meta["stage"] == "bn_statistics"
    assert len(pool) == 4
    assert all(np.array_equal(v, quantise(state.params, "fp16")[k]) for k, v in state.params.items())
    for counts in pool:
        mask = magnitude_mask(state.params, counts)
        assert active_counts(mask) == counts
        assert abs(density(mask) - 0.2) / 0.2 < 0.05
        assert all((state.mask[name] | ~mask[name]).all() for name in mask), "union holds every candidate"
    assert density(state.mask) < 0.2 * 1.5 * 1.01


def test_statistics_are_aggregated_over_all_devices_by_development_size(engine):
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    after, results = run_step(method, engine, state, devices(3))
    weights = np.array([8.0, 9.0, 10.0])
    assert after.meta["stage"] == "bn_selection"
    for name in ("0/stem_norm.running_mean", "3/conv2_norm.running_var"):
        stack = np.array([result.params[name] for result in results], np.float64)
        assert not np.allclose(stack[0], stack[1])
        np.testing.assert_allclose(after.params[name], np.average(stack, axis=0, weights=weights), rtol=1e-5)


def test_between_device_variance_is_the_law_of_total_variance(engine):
    method = fedtiny(between_device_variance=True)
    state = method.initial_state(engine, dataset(96, 1))
    after, results = run_step(method, engine, state, devices(2))
    means = np.array([r.params["1/conv0_norm.running_mean"] for r in results], np.float64)
    variances = np.array([r.params["1/conv0_norm.running_var"] for r in results], np.float64)
    w = np.array([8.0, 9.0]) / 17.0
    mean = w @ means
    expected = w @ variances + w @ np.square(means - mean)
    np.testing.assert_allclose(after.params["1/conv0_norm.running_var"], expected, rtol=1e-4)


def test_statistics_come_from_forward_passes_in_training_mode(engine):
    """Ten passes over a development set of one batch: r_t = 0.9 r_(t-1) + 0.1 m, so r_10 is known."""
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    task = method.configure_round(state)
    data = devices(1)[0]
    result = method.run(task, engine, data, control())
    x = data.development.x
    normalised = (x - np.float32(task.meta["normalization"]["mean"][0])) / np.float32(
        task.meta["normalization"]["std"][0]
    )
    import torch

    stem = torch.nn.functional.conv2d(
        torch.from_numpy(normalised.astype(np.float32)), torch.from_numpy(state.params["stem.weight"]), padding=1
    )
    batch_mean = stem.mean(dim=(0, 2, 3)).numpy()
    before = state.params["stem_norm.running_mean"]
    expected = 0.9**10 * before + (1 - 0.9**10) * batch_mean
    np.testing.assert_allclose(result.params["0/stem_norm.running_mean"], expected, rtol=1e-3, atol=1e-4)
    assert result.meta["samples"] == len(data.development)


def control():
    from tinyfleet.fedcore.methods.method import Control

    return Control()


def test_the_lowest_sample_weighted_loss_wins_and_kept_weights_are_the_pretrained_ones(engine):
    method = fedtiny()
    first = method.initial_state(engine, dataset(96, 1))
    second, _ = run_step(method, engine, first, devices(3))
    final, results = run_step(method, engine, second, devices(3))
    losses = np.array([result.meta["losses"] for result in results])
    winner = int(np.argmin(np.average(losses, axis=0, weights=[8, 9, 10])))
    assert final.meta["winner"] == winner
    assert final.meta["stage"] == "train"
    assert active_counts(final.mask) == first.meta["candidates"][winner]
    for name, active in final.mask.items():
        assert np.array_equal(final.params[name][active], first.params[name][active])
        assert not final.params[name][~active].any()
    for name in method.problem.graph.statistics:
        assert np.array_equal(final.params[name], second.params[f"{winner}/{name}"])
    assert final.params.keys() == method.problem.graph.params.keys()


def test_default_pool_size():
    assert [bn_selection.default_pool_size(d) for d in (0.5, 0.05, 0.01, 0.001)] == [1, 2, 10, 20]


def test_without_selection_training_starts_at_once_from_the_uniform_mask(engine):
    state = fedtiny(selection=False).initial_state(engine, dataset(96, 1))
    assert state.meta["stage"] == "train"
    assert density(state.mask) == pytest.approx(0.2, rel=0.02)


# -- progressive pruning -----------------------------------------------------------------


def test_counts_never_drift_through_all_adjustments(engine):
    method = fedtiny(rounds=10)
    state = trained_state(method, engine)
    counts = active_counts(state.mask)
    changed = set()
    for _ in range(10):
        before = state.mask
        state, results = run_step(method, engine, state, devices())
        assert active_counts(state.mask) == counts
        assert all(np.count_nonzero(state.params[n]) <= counts[n] for n in counts)
        changed |= {name for name in counts if not np.array_equal(before[name], state.mask[name])}
        for result in results:
            for name, active in before.items():
                assert not result.params[name][~active].any(), "pruned weights leak into an upload"
    assert changed == set(counts), "every block was adjusted"
    assert method.finished(state)


def test_blocks_rotate_by_adjustment_counter_from_output_to_input(engine):
    """An interval and a number of blocks that share a factor must still visit every block."""
    method = fedtiny(rounds=40, interval=10, stop=40)
    state = Payload({"round": 0, "adjustments": 0}, {}, magnitude_mask(
        method.problem.graph.initial_params(0), fedtiny_counts(method)))  # fmt: skip
    visited = []
    for round_index in range(40):
        state.meta["round"] = round_index
        group = method.adjustment(state)
        if group:
            visited += list(group)
            state.meta["adjustments"] += 1
    assert visited == ["conv3.weight", "conv2.weight", "conv1.weight"]
    state.meta |= {"round": 10, "adjustments": 3}
    assert list(method.adjustment(state)) == ["conv0.weight"]


def fedtiny_counts(method):
    from tinyfleet.fedcore.sparsity.allocation import uniform_counts

    graph = method.problem.graph
    return uniform_counts({n: graph.params[n].shape for n in graph.maskable}, 0.2)


@pytest.mark.parametrize(
    ("granularity", "order", "expected"),
    [
        ("block", "backward", [["conv3"], ["conv2"], ["conv1"], ["conv0"]]),
        ("block", "forward", [["conv0"], ["conv1"], ["conv2"], ["conv3"]]),
        ("layer", "forward", [["conv0"], ["conv1"], ["conv2"], ["conv3"]]),
        ("entire", "backward", [["conv3", "conv2", "conv1", "conv0"]]),
    ],
)
def test_granularities_and_orders(granularity, order, expected):
    found = progressive.groups(problem().graph, granularity, order)
    assert found == [[f"{name}.weight" for name in group] for group in expected]


def test_the_adjustment_is_the_specified_one(engine):
    """Aggregated |g| picks what grows at value zero; the smallest |w| active before go; exactly q_l of each."""
    method = fedtiny(rounds=10)
    state = trained_state(method, engine)
    for _ in range(2):
        state, _ = run_step(method, engine, state, devices())
    quantity = method.adjustment(state)
    ((name, count),) = quantity.items()
    active = int(state.mask[name].sum())
    assert count == int(0.15 * (1 + np.cos(np.pi * 2 / 9)) * active)
    after, results = run_step(method, engine, state, devices())
    weights = np.array([r.meta["samples"] for r in results], np.float64)
    total = np.zeros(state.mask[name].size)
    for result, weight in zip(results, weights / weights.sum(), strict=True):
        assert set(result.gradients) == {name}
        assert len(result.gradients[name].positions) == count, "K = q_l values go up, never a dense gradient"
        total[result.gradients[name].positions] += weight * result.gradients[name].values
    inactive = np.flatnonzero(~state.mask[name])
    grown = np.flatnonzero(after.mask[name] & ~state.mask[name])
    assert np.array_equal(grown, largest(total[inactive].astype(np.float32), inactive, count))
    assert not after.params[name].reshape(-1)[grown].any()
    pruned = np.flatnonzero(~after.mask[name] & state.mask[name])
    assert len(pruned) == count
    mean = np.average([r.params[name] for r in results], axis=0, weights=weights).reshape(-1)
    kept = np.flatnonzero(after.mask[name] & state.mask[name])
    assert np.abs(mean[pruned]).max() <= np.abs(mean[kept]).min() + 1e-7


# -- what comes over the wire ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r, n: r.gradients.update({"conv0.weight": r.gradients[n]}), "not asked for"),
        (lambda r, n: r.gradients.update({n: SparseVector(np.arange(9999), np.ones(9999, np.float32))}), "at most"),
        (lambda r, n: r.gradients.update({n: SparseVector(np.array([10**9]), np.ones(1, np.float32))}), "pruned"),
        (lambda r, n: r.gradients.update({n: SparseVector(np.array([-1]), np.ones(1, np.float32))}), "pruned"),
        (lambda r, n: r.gradients.update({n: SparseVector(np.array([5, 4]), np.ones(2, np.float32))}), "rise"),
        (lambda r, n: r.meta.update(samples=0), "samples"),
        (lambda r, n: r.meta.update(samples=True), "samples"),
        (lambda r, n: r.meta.update(loss=float("nan")), "loss"),
        (lambda r, n: r.meta.pop("loss"), "loss"),
        (lambda r, n: r.params.pop("stem.weight"), "wrong arrays"),
        (lambda r, n: r.params.update({"stem.weight": np.full((8, 1, 3, 3), 1e30, np.float32)}), "overflows"),
    ],
)
def test_a_bad_result_is_refused_whole(engine, damage, message):
    method = fedtiny()
    state = trained_state(method, engine)
    state, _ = run_step(method, engine, state, devices())
    (name,) = method.adjustment(state)
    task = method.configure_round(state)
    good = [method.run(task, engine, data, control()) for data in devices(2)]
    bad = method.run(task, engine, devices(3)[2], control())
    damage(bad, name)
    clean, disturbed = method.begin_fold(state), method.begin_fold(state)
    method.fold(clean, good[0])
    method.fold(disturbed, good[0])
    with pytest.raises(ResultError, match=message):
        method.fold(disturbed, bad)
    method.fold(clean, good[1])
    method.fold(disturbed, good[1])
    a, b = method.finish_round(state, clean), method.finish_round(state, disturbed)
    assert all(a.params[n].tobytes() == b.params[n].tobytes() for n in a.params)


@pytest.mark.parametrize("losses", [None, [1.0], [1.0, 2.0, float("inf"), 1.0], ["a", 1, 2, 3], [True] * 4])
def test_bad_losses_are_refused(engine, losses):
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    state, _ = run_step(method, engine, state, devices(1))
    with pytest.raises(ResultError, match="4 finite numbers"):
        method.fold(method.begin_fold(state), Payload({"samples": 5, "losses": losses}))


def test_bad_statistics_are_refused(engine):
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    result = method.run(method.configure_round(state), engine, devices(1)[0], control())
    result.params["2/conv1_norm.running_var"] -= 1e6
    with pytest.raises(ResultError, match="negative variance"):
        method.fold(method.begin_fold(state), result)


def test_candidates_that_do_not_fit_the_model_are_refused(engine):
    method = fedtiny()
    state = method.initial_state(engine, dataset(96, 1))
    task = method.configure_round(state)
    for pool in (None, [], [{"conv0.weight": 3}], [dict.fromkeys(method.problem.graph.maskable, 10**9)]):
        task.meta["candidates"] = pool
        with pytest.raises(ResultError, match="candidates"):
            method.run(task, engine, devices(1)[0], control())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "fedtny"}, "did you mean 'fedtiny'"),
        ({"name": "fedtiny", "densty": 0.1}, "did you mean `density`"),
        ({"name": "fedtiny", "density": 0.0}, "density"),
        ({"name": "fedtiny", "granularity": "channel"}, "granularity"),
    ],
)
def test_bad_settings_name_the_remedy(settings, message):
    with pytest.raises(ConfigError, match=message):
        create(settings, problem())
