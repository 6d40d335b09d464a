"""FedRTS: posteriors by hand, masks drawn at exact counts, and tasks that carry the model alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.fedrts import FAILURES, SUCCESSES, FedRts, FedRtsSettings, largest_active
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.sparsity.mask import active_counts, mask_digest

W = "conv0.weight"


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def fedrts(rounds=6, **settings):
    return FedRts(FedRtsSettings(**{"density": 0.2, "interval": 1, "stop": 9, **settings}), problem(rounds))


def state_of(method, round_index, active):
    """A state whose conv0 has just these active weights, all other layers the random mask's; prior (1, 1)."""
    params, mask = method.problem.graph.initial_params(0), method.initial_mask()
    own = np.zeros(mask[W].size, np.bool_)
    own[active] = True
    mask[W] = own.reshape(mask[W].shape)
    for name in mask:
        params[SUCCESSES + name] = np.ones(mask[name].shape, np.float32)
        params[FAILURES + name] = np.ones(mask[name].shape, np.float32)
    meta = {"step": round_index, "round": round_index, "stage": "train", "normalization": {}}
    return Payload(meta, params, mask)


def result_of(method, state, values, samples, grown=()):
    """A result with conv0's active weights at ``values``, and votes for pruned positions of it."""
    params = {name: np.zeros(spec.shape, np.float32) for name, spec in method.problem.graph.params.items()}
    params[W].reshape(-1)[np.flatnonzero(state.mask[W])] = values
    where = np.array(grown, np.int64)
    gradients = {W: SparseVector(where, np.zeros(len(where), np.float32))} if len(where) else {}
    return Payload({"step": 0, "samples": samples, "loss": 1.0}, params, state.mask, gradients)


def posterior(state, position):
    return tuple(float(state.params[prefix + W].reshape(-1)[position]) for prefix in (SUCCESSES, FAILURES))


def voted(method, state):
    """Ten active weights 0..9 (q = 1 to 4 of them); d0 (10 samples) and d1 (30 samples) disagree."""
    fold = method.begin_fold(state)
    ascending = np.arange(1, 11, dtype=np.float32)
    method.fold(fold, result_of(method, state, -ascending, 10, [20]))
    method.fold(fold, result_of(method, state, -ascending[::-1], 30, [20, 21]))
    return fold


def test_posteriors_by_hand():
    method = fedrts(stop=4, scale=0.2, gamma=0.5, strength=10.0)
    state = state_of(method, 2, range(10))
    assert method.candidates(state)[W] == math.floor(0.2 * (1 + math.cos(math.pi / 2)) * 10) == 2
    after = method.finish_round(state, voted(method, state))
    # d0 holds 2..9 to be its 8 largest, d1 0..7; the mean (10 w0 + 30 w1) / 40 falls in size: 0..7.
    # Active, X = 0.5 [in the mean's top 8] + 0.5 (share of samples that have it in their top 8).
    assert posterior(after, 0) == (1 + 10 * (0.5 + 0.5 * 0.75), 1 + 10 * (1 - 0.875))
    assert posterior(after, 5) == (11.0, 1.0), "everyone's"
    assert posterior(after, 9) == (1 + 10 * 0.5 * 0.25, 1 + 10 * 0.875)
    # Pruned, X = 0.5 x 0.5 + 0.5 (share of samples that voted for it).
    assert posterior(after, 20) == (1 + 10 * 0.75, 1 + 10 * 0.25)
    assert posterior(after, 21) == (1 + 10 * (0.25 + 0.375), 1 + 10 * 0.375)
    assert posterior(after, 40) == (1 + 10 * 0.25, 1 + 10 * 0.75)


def test_between_adjustments_only_active_weights_are_judged():
    method = fedrts(stop=4, interval=3, scale=0.2)
    state = state_of(method, 2, range(10))
    assert method.adjustment(state) == {}
    fold = method.begin_fold(state)
    method.fold(fold, result_of(method, state, np.arange(1, 11), 10))
    after = method.finish_round(state, fold)
    assert posterior(after, 9) == (11.0, 1.0)
    assert posterior(after, 0) == (1.0, 11.0)
    assert posterior(after, 20) == (1.0, 1.0)
    assert mask_digest(after.mask) == mask_digest(state.mask)
    with pytest.raises(ResultError, match="not asked for"):
        method.fold(fold, result_of(method, state, np.arange(1, 11), 10, [20]))


def test_gamma_weighs_the_aggregate_against_the_devices():
    for gamma, first, voted_for in ((1.0, 11.0, 6.0), (0.0, 8.5, 11.0)):
        method = fedrts(stop=4, gamma=gamma)
        state = state_of(method, 2, range(10))
        after = method.finish_round(state, voted(method, state))
        assert posterior(after, 0)[0] == first
        assert posterior(after, 20)[0] == voted_for


def test_after_the_last_adjustment_nothing_is_judged_or_drawn():
    method = fedrts(stop=4)
    for round_index in (4, 5):
        state = state_of(method, round_index, range(10))
        assert method.configure_round(state).meta["grow"] == {}, "q is 0 at the end of the cosine"
        fold = method.begin_fold(state)
        method.fold(fold, result_of(method, state, np.arange(1, 11), 10))
        after = method.finish_round(state, fold)
        assert mask_digest(after.mask) == mask_digest(state.mask)
    assert posterior(after, 9) == (1.0, 1.0)


def test_a_strong_posterior_decides_and_what_grows_starts_at_zero():
    method = fedrts(stop=4)
    state = state_of(method, 2, range(10))
    state.params[SUCCESSES + W].reshape(-1)[[3, 4, 50, 51]] = 1e6
    state.params[SUCCESSES + W].reshape(-1)[5:10] = 1e6
    state.params[FAILURES + W].reshape(-1)[[0, 1, 2]] = 1e6
    state.params[SUCCESSES + W].reshape(-1)[52] = 1e6
    outside = np.setdiff1d(np.arange(state.mask[W].size), [*range(10), 50, 51, 52])
    state.params[FAILURES + W].reshape(-1)[outside] = 1e6
    after = method.finish_round(state, voted(method, state))
    assert np.flatnonzero(after.mask[W]).tolist() == [*range(3, 10), 50, 51, 52]
    assert np.flatnonzero(after.params[W]).tolist() == list(range(3, 10))
    assert active_counts(after.mask) == active_counts(state.mask)


def test_masks_are_drawn_from_seed_and_round_alone():
    method = fedrts(stop=4)
    state = state_of(method, 2, range(10))
    first, second = (method.finish_round(state, voted(method, state)) for _ in range(2))
    assert mask_digest(first.mask) == mask_digest(second.mask) != mask_digest(state.mask)
    assert active_counts(first.mask) == active_counts(state.mask)
    assert not any(first.params[name][~active].any() for name, active in first.mask.items())
    other = FedRts(method.settings, problem(seed=1))
    assert mask_digest(other.finish_round(state, voted(other, state)).mask) != mask_digest(first.mask)


def test_a_misfit_changes_nothing():
    method = fedrts(stop=4)
    state = state_of(method, 2, range(10))
    fold = voted(method, state)
    before = encode(method.finish_round(state, fold), precision="fp32")
    good = result_of(method, state, np.arange(1, 11), 10, [20])
    for words, bad in {
        "at most 2": result_of(method, state, np.arange(1, 11), 10, [20, 21, 22]),
        "pruned weights": result_of(method, state, np.arange(1, 11), 10, [9]),
        "wrong arrays": Payload(good.meta, {W: good.params[W]}, good.mask, good.gradients),
        "loss": Payload({**good.meta, "loss": None}, good.params, good.mask, good.gradients),
    }.items():
        with pytest.raises(ResultError, match=words):
            method.fold(fold, bad)
    assert fold.devices == 2
    assert encode(method.finish_round(state, fold), precision="fp32") == before


def test_the_fold_is_bit_equal_in_any_order():
    method = fedrts(stop=4)
    state, rng = state_of(method, 2, range(10)), np.random.default_rng(0)
    results = [
        result_of(method, state, rng.standard_normal(10), samples, sorted(rng.choice(range(10, 60), 2, False)))
        for samples in (7, 1000, 33)
    ]
    seen = set()
    for order in itertools.permutations(results):
        fold = method.begin_fold(state)
        for result in order:
            method.fold(fold, result)
        seen.add(encode(method.finish_round(state, fold), precision="fp32"))
    assert len(seen) == 1


def test_the_core_is_the_largest_of_the_active():
    weights = np.array([[9.0, -1.0, 5.0], [-7.0, 2.0, 2.0]], np.float32)
    active = np.array([[False, True, True], [True, True, True]])
    assert largest_active(weights, active, 3).tolist() == [2, 3, 4], "ties go to the lower position"


def test_devices_send_positions_alone(engine):
    method = fedrts(stop=20)
    state = method.initial_state(engine, dataset(96, 1))
    assert method.configure_round(state).meta["grow"] == {}, "round 0 is no adjustment"
    state.meta["round"] = 1
    task = method.configure_round(state)
    assert task.params.keys() == method.problem.graph.params.keys() == method.deployed(state).params.keys()
    result = method.run(task, engine, devices(1)[0], Control())
    for name, count in task.meta["grow"].items():
        positions, values = result.gradients[name]
        assert len(positions) == count > 0
        assert not task.mask[name].reshape(-1)[positions].any()
        assert not values.any()
    last = decode(encode(result)).gradients[W]
    assert np.array_equal(last.positions, result.gradients[W].positions)
    grads = method.cost(task, 50, 5)
    plain = method.cost(Payload({}, {}, task.mask), 50, 5)
    assert grads.flops > plain.flops
    assert grads.memory > plain.memory


def test_a_run_over_the_wire_learns_at_exact_counts(engine):
    method = fedrts(rounds=6, stop=9)
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
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()
            total = state.params[SUCCESSES + name] + state.params[FAILURES + name]
            assert total.min() >= 2.0
            assert total.max() <= 2.0 + 10.0 * state.meta["round"] + 1e-3
        digests.add(mask_digest(state.mask))
        losses.append(state.meta["metrics"]["loss"])
    assert len(digests) > 4, "the mask moves"
    assert losses[-1] < losses[0]


def test_before_the_first_adjustment_it_is_the_static_method(engine):
    method = fedrts(interval=5)
    state = method.initial_state(engine, dataset(96, 1))
    after, results = run_step(method, engine, state, devices())
    assert mask_digest(after.mask) == mask_digest(state.mask)
    weights = [result.meta["samples"] for result in results]
    expected = np.average([result.params[W] for result in results], axis=0, weights=weights)
    np.testing.assert_allclose(after.params[W], expected, rtol=1e-5, atol=1e-7)
