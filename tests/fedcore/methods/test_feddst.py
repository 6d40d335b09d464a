"""FedDST: own masks, the mean over holders, and exact counts after every round."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from msgspec.structs import replace

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.datasets.dataset import batch_count, batches
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.methods.feddst import FedDst, FedDstSettings
from tinyfleet.fedcore.methods.method import Control, Problem, device_seed, normalization_of
from tinyfleet.fedcore.methods.parts.local import all_samples
from tinyfleet.fedcore.methods.parts.per_weight_aggregate import HolderFold, prune_to
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.sparsity.mask import active_counts, mask_digest

W = "conv0.weight"


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def feddst(rounds=6, training=None, **settings):
    given = problem(rounds)
    given = Problem(given.graph, replace(given.training, **(training or {})), given.seed)
    return FedDst(FedDstSettings(**{"density": 0.2, "interval": 1, "stop": 9, **settings}), given)


def result_of(method, state, active, value, samples, loss=1.0):
    """A result that holds ``active`` flat positions of conv0 at ``value``, and the state's other masks."""
    own = np.zeros(state.mask[W].size, np.bool_)
    own[active] = True
    mask = {**state.mask, W: own.reshape(state.mask[W].shape)}
    params = {name: np.zeros_like(values) for name, values in state.params.items()}
    params[W] = np.where(mask[W], np.float32(value), np.float32(0))
    return Payload({"step": 0, "samples": samples, "loss": loss}, params, mask)


def small_state(method, active):
    graph = method.problem.graph
    params = graph.initial_params(0)
    mask = method.initial_mask()
    own = np.zeros(mask[W].size, np.bool_)
    own[active] = True
    mask[W] = own.reshape(mask[W].shape)
    return Payload({"step": 0, "round": 1, "stage": "train"}, params, mask)


def test_a_weight_is_the_mean_over_those_who_hold_it_then_magnitude_decides():
    method = feddst()
    state = small_state(method, [0, 1])
    fold = method.begin_fold(state)
    method.fold(fold, result_of(method, state, [0, 1], 2.0, 10))
    method.fold(fold, result_of(method, state, [1, 5], -4.0, 30, loss=3.0))
    mean = fold.mean(state.params)[W].reshape(-1)
    assert mean[0] == 2.0, "only the first holds it: not divided by everyone's samples"
    assert mean[1] == (2.0 * 10 - 4.0 * 30) / 40
    assert mean[5] == -4.0
    assert mean[7] == state.params[W].reshape(-1)[7], "nobody holds it"
    after = method.finish_round(state, fold)
    assert np.flatnonzero(after.mask[W]).tolist() == [1, 5], "2.0 is the smallest of three held weights"
    assert np.flatnonzero(after.params[W]).tolist() == [1, 5]
    assert after.meta["metrics"]["loss"] == 2.5
    assert (after.meta["step"], after.meta["round"]) == (1, 2)


def test_only_held_weights_are_candidates():
    """A held weight that is exactly zero stays before a lower position that nobody holds."""
    params = {"a": np.array([9.0, 0.0, 0.0, 1.0], np.float32)}
    mask = prune_to(params, {"a": np.array([False, False, True, True])}, {"a": 2})
    assert mask["a"].tolist() == [False, False, True, True]
    assert params["a"].tolist() == [0.0, 0.0, 0.0, 1.0]
    with pytest.raises(AssertionError, match="2 weights are held, 3"):
        prune_to(params, {"a": np.array([False, False, True, True])}, {"a": 3})


def test_values_outside_the_own_mask_do_not_count():
    method = feddst()
    state = small_state(method, [0, 1])
    bad = result_of(method, state, [0, 1], 2.0, 10)
    bad.params[W] = np.full_like(bad.params[W], 7.0)
    fold = method.begin_fold(state)
    method.fold(fold, bad)
    method.fold(fold, result_of(method, state, [4, 5], 1.0, 10))
    assert fold.mean(state.params)[W].reshape(-1)[[0, 4]].tolist() == [7.0, 1.0]


def misfits(method, state):
    good = result_of(method, state, [0, 1], 2.0, 10)
    flat = np.zeros(state.mask[W].size, np.bool_)
    return {
        "3 weights": result_of(method, state, [0, 1, 2], 2.0, 10),
        "1 weights": result_of(method, state, [0], 2.0, 10),
        "wrong layers": replace_mask(good, {W: good.mask[W]}),
        "conv9": replace_mask(good, {**good.mask, "conv9.weight": flat}),
        "under a mask": replace_mask(good, {**good.mask, W: np.array([True, True])}),
        "masked and missing": Payload(good.meta, {n: v for n, v in good.params.items() if n != W}, good.mask),
        "wrong arrays": Payload(good.meta, {n: v for n, v in good.params.items() if n != "stem.weight"}, good.mask),
        "loss": Payload({**good.meta, "loss": "low"}, good.params, good.mask),
        "overflows": Payload(good.meta, {**good.params, W: np.full_like(good.params[W], 1e30)}, good.mask),
    }


def replace_mask(result, mask):
    return Payload(result.meta, result.params, mask)


def test_misfits_are_refused_and_change_nothing():
    method = feddst()
    state = small_state(method, [0, 1])
    fold = method.begin_fold(state)
    method.fold(fold, result_of(method, state, [3, 5], 2.0, 10))
    before = {name: values.tobytes() for name, values in fold.mean(state.params).items()}
    for words, bad in misfits(method, state).items():
        with pytest.raises(ResultError, match=words):
            method.fold(fold, bad)
    assert (fold.devices, fold.weight) == (1, 10)
    assert {name: values.tobytes() for name, values in fold.mean(state.params).items()} == before
    assert np.flatnonzero(fold.held()[W]).tolist() == [3, 5]


def test_the_fold_is_bit_equal_in_any_order():
    rng, graph = np.random.default_rng(5), problem().graph
    names = list(graph.maskable)
    parts = []
    for samples in (7, 1000, 33):
        mask = {name: rng.random(graph.params[name].shape) < 0.4 for name in names}
        params = {n: rng.standard_normal(s.shape).astype(np.float32) for n, s in graph.params.items()}
        parts.append((Payload({"loss": float(rng.random())}, params, mask), samples))
    least, most = dict.fromkeys(names, 0), {name: graph.params[name].size for name in names}
    seen = set()
    for order in itertools.permutations(parts):
        fold = HolderFold(graph, least, most)
        for part in order:
            fold.add(*part)
        mean = fold.mean(graph.initial_params(0))
        seen.add((fold.number("loss"), *(mean[name].tobytes() for name in graph.params)))
    assert len(seen) == 1


def test_readjustment_swaps_the_smallest_for_the_largest_gradients(engine):
    method = feddst()
    state = method.initial_state(engine, dataset(96, 1))
    state.meta["round"] = 1
    task = method.configure_round(state)
    counts = task.meta["grow"]
    assert set(counts) == set(state.mask)
    x, y = next(batches(devices(1)[0].train, 16, normalization_of(state)))
    engine.load(method.problem.graph, task.params, task.mask)
    own = method.readjust(engine, task.mask, counts, (x, y), Control())
    params = engine.params()
    engine.load(method.problem.graph, task.params, task.mask)
    dense = engine.dense_gradients(x, y, list(counts))
    assert active_counts(own) == active_counts(task.mask)
    for name, count in counts.items():
        before, after = task.mask[name].reshape(-1), own[name].reshape(-1)
        grown, pruned = after & ~before, before & ~after
        assert grown.sum() == pruned.sum() == count > 0
        slopes, weights = np.abs(dense[name].reshape(-1)), np.abs(task.params[name].reshape(-1))
        assert slopes[grown].min() >= slopes[~before & ~grown].max() * (1 - 1e-5)
        assert weights[pruned].max() <= weights[before & after].min()
        flat = params[name].reshape(-1)
        assert not flat[~after].any()
        assert not flat[grown].any(), "regrown weights start at zero"
        assert np.array_equal(flat[before & after], task.params[name].reshape(-1)[before & after])


@pytest.mark.parametrize(
    ("epochs", "after", "batch", "samples", "expected"),
    [
        (5, 2, 16, 48, (15, 9)),
        (5, 0, 16, 48, (15, 8)),
        (1, 0, 16, 48, (3, 2)),
        (1, 0, 64, 48, (1, 1)),
        (2, 0, 16, 49, (6, 3)),
        (2, 0, 16, 50, (8, 4)),
        (1, 0, 1, 10, (9, 5)),
    ],
)
def test_steps_before_and_after_the_readjustment(epochs, after, batch, samples, expected):
    method = feddst(training={"local_epochs": epochs, "batch": batch}, adjust_epochs=after)
    steps = epochs * batch_count(samples, batch)
    assert (steps, method.steps_before(steps)) == expected
    data = dataset(samples, 0)
    normalization = normalization_of(Payload({"normalization": {"mean": [0.0], "std": [1.0], "scale": 1.0}}))
    assert epochs * len(list(batches(data, batch, normalization))) == expected[0]


def test_a_round_must_train_before_the_readjustment():
    with pytest.raises(ConfigError, match="adjust_epochs 2"):
        feddst(training={"local_epochs": 2}, adjust_epochs=2)


def test_a_device_trains_on_under_its_own_mask(engine):
    """The device's round, retold with the engine alone."""
    method = feddst(training={"local_epochs": 2})
    state = method.initial_state(engine, dataset(96, 1))
    state.meta["round"] = 1
    task, device = method.configure_round(state), devices(1)[0]
    reported = []
    control = Control(progress=lambda step, steps, loss: reported.append((step, steps)))
    result = method.run(task, engine, device, control)
    assert reported == [(step, 6) for step in range(1, 7)]
    assert mask_digest(result.mask) != mask_digest(task.mask)
    grown = {name: result.mask[name] & ~task.mask[name] for name in task.mask}
    assert all(grown[name].sum() == count for name, count in task.meta["grow"].items())
    assert any(result.params[name][grown[name]].any() for name in grown), "regrown weights were trained"
    assert not any(result.params[name][~result.mask[name]].any() for name in grown)
    rng, data = device_seed(0, task, device.name), all_samples(device)
    normalization, settings = normalization_of(task), method.step_settings(0.05, Control())
    engine.load(method.problem.graph, task.params, task.mask)
    for x, y in batches(data, 16, normalization, rng):
        engine.train_step(x, y, settings)
    method.readjust(engine, task.mask, task.meta["grow"], (x, y), Control())
    for x, y in batches(data, 16, normalization, rng):
        engine.train_step(x, y, settings)
    for name, values in engine.params().items():
        assert result.params[name].tobytes() == values.tobytes(), name


def test_between_adjustments_it_is_the_static_method(engine):
    method = feddst(interval=5)
    state = method.initial_state(engine, dataset(96, 1))
    assert method.configure_round(state).meta["grow"] == {}
    after, results = run_step(method, engine, state, devices())
    assert mask_digest(after.mask) == mask_digest(state.mask)
    assert all(mask_digest(result.mask) == mask_digest(state.mask) for result in results)
    weights = [result.meta["samples"] for result in results]
    expected = np.average([result.params[W] for result in results], axis=0, weights=weights)
    np.testing.assert_allclose(after.params[W], expected, rtol=1e-5, atol=1e-7)


def test_a_run_over_the_wire_learns_at_exact_counts(engine):
    method = feddst(rounds=5)
    state = method.initial_state(engine, dataset(96, 1))
    counts, digests, losses = active_counts(state.mask), set(), []
    while not method.finished(state):
        task = decode(encode(method.configure_round(state)))
        fold = method.begin_fold(state)
        for device in devices():
            result = method.run(task, engine, device, Control())
            method.fold(fold, decode(encode(result)))
        state = decode(encode(method.finish_round(state, fold), precision="fp32"))
        assert active_counts(state.mask) == counts
        assert not any(state.params[name][~active].any() for name, active in state.mask.items())
        digests.add(mask_digest(state.mask))
        losses.append(state.meta["metrics"]["loss"])
    assert len(digests) > 3, "the mask moves"
    assert losses[-1] < losses[0]


def test_an_adjustment_costs_its_gradients():
    method = feddst()
    state = small_state(method, [0, 1])
    state.meta["normalization"] = {}
    plain = method.cost(Payload({}, {}, state.mask), 50, 5)
    adjusting = method.cost(method.configure_round(state), 50, 5)
    assert adjusting.flops > plain.flops
    assert adjusting.memory > plain.memory
