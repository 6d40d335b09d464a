from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.methods.registry import create
from tinyfleet.fedcore.sparsity.mask import active_counts, density


def test_fedavg_is_the_weighted_mean_and_learns(engine_name):
    engine = new_engine(engine_name)
    method = create({"name": "fedavg", "pretrained": False}, problem(rounds=5))
    state = method.initial_state(engine, dataset(96, 1))
    losses = []
    while not method.finished(state):
        state, results = run_step(method, engine, state, devices())
        weights = [result.meta["samples"] for result in results]
        assert weights == [48, 59, 70], "all local samples are trained on"
        for name in ("stem.weight", "conv1_norm.running_var"):
            expected = np.average([r.params[name] for r in results], axis=0, weights=weights)
            np.testing.assert_allclose(state.params[name], expected, rtol=1e-5, atol=1e-7)
        losses.append(state.meta["metrics"]["loss"])
    assert losses[-1] < 0.6 * losses[0]
    test = dataset(300, 77)
    from tinyfleet.fedcore.methods.method import normalization_of

    engine.load(method.problem.graph, state.params, state.mask)
    assert engine.evaluate(normalization_of(state)(test.x), test.y).accuracy > 0.9


@pytest.mark.parametrize("allocation", ["erk", "uniform"])
def test_a_static_mask_never_changes(engine_name, allocation):
    engine = new_engine(engine_name)
    method = create({"name": "static", "density": 0.1, "allocation": allocation}, problem(rounds=2))
    first = method.initial_state(engine, dataset(96, 1))
    assert density(first.mask) == pytest.approx(0.1, rel=0.02)
    state = first
    while not method.finished(state):
        state, _ = run_step(method, engine, state, devices())
        for name, active in first.mask.items():
            assert np.array_equal(state.mask[name], active)
            assert not state.params[name][~active].any()
            assert np.count_nonzero(state.params[name]) == active_counts(first.mask)[name]


def test_results_are_pure_functions_of_seed_step_and_device(engine_name):
    engine = new_engine(engine_name)
    method = create({"name": "fedavg"}, problem())
    state = method.initial_state(engine, dataset(96, 1))
    again, results = run_step(method, engine, state, devices())
    second, results_2 = run_step(method, engine, state, devices()[::-1])
    assert all(again.params[n].tobytes() == second.params[n].tobytes() for n in again.params)
    assert results[0].params["stem.weight"].tobytes() == results_2[-1].params["stem.weight"].tobytes()
    assert results[0].params["stem.weight"].tobytes() != results[1].params["stem.weight"].tobytes()
