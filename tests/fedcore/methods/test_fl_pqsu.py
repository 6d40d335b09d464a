"""FL-PQSU's structured pruning, and a short run with 8-bit uploads."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem
from tests.fedcore.methods.wired import run_wired_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.methods.fedavg import FedAvg, FedAvgSettings
from tinyfleet.fedcore.methods.fl_pqsu import FlPqsu, FlPqsuSettings, filter_mask
from tinyfleet.fedcore.protocol.codec import quantise
from tinyfleet.fedcore.sparsity.mask import mask_digest


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def fl_pqsu(rounds=3, **settings):
    return FlPqsu(FlPqsuSettings(**settings), problem(rounds))


def test_the_filters_of_the_largest_l1_norm_stay():
    """By |w| summed, not by the largest weight (filter 1) nor by the signed sum (filter 2)."""
    weights = np.array([[2, -2, 2], [5, 0, 0], [3, 1, 1.5], [-3, -3, 3]], np.float32)[:, :, None, None]
    assert filter_mask(weights, 0.5)[:, 0, 0, 0].tolist() == [True, False, False, True]
    assert filter_mask(weights, 0.25)[:, 0, 0, 0].tolist() == [False, False, False, True]


@pytest.mark.parametrize(("density", "filters"), [(0.001, 1), (0.1, 1), (0.25, 3), (0.3, 4), (1.0, 12)])
def test_every_layer_keeps_its_share_of_whole_filters(engine, density, filters):
    method = fl_pqsu(density=density)
    state = method.initial_state(engine, dataset(48, 1))
    parent = FedAvg(FedAvgSettings(), problem()).initial_state(engine, dataset(48, 1))
    assert state.mask.keys() == set(method.problem.graph.maskable)
    for name, active in state.mask.items():
        rows = active.reshape(len(active), -1)
        assert (rows.all(axis=1) == rows.any(axis=1)).all(), "a filter is whole or gone"
        assert rows.any(axis=1).sum() == filters
        norms = np.abs(parent.params[name]).sum(axis=(1, 2, 3))
        assert norms[rows[:, 0]].min() >= norms[~rows[:, 0]].max(initial=0.0)
        assert np.array_equal(state.params[name], np.where(active, parent.params[name], 0))


def test_ties_go_to_the_lower_filter():
    assert filter_mask(np.ones((4, 2), np.float32), 0.5)[:, 0].tolist() == [True, True, False, False]


def test_a_run_with_8_bit_uploads_keeps_the_mask(engine):
    method = fl_pqsu(density=0.25)
    first = state = method.initial_state(engine, dataset(96, 1))
    losses = []
    while not method.finished(state):
        state, results = run_wired_step(method, engine, state, devices())
        losses.append(state.meta["metrics"]["loss"])
        assert mask_digest(state.mask) == mask_digest(first.mask)
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()
            for result in results:
                again = quantise({name: result.params[name]}, "int8")[name]
                assert np.array_equal(result.params[name], again), "a weight arrives as one of 255 levels"
            assert not np.array_equal(state.params[name], quantise({name: state.params[name]}, "int8")[name])
    assert losses[-1] < 0.8 * losses[0], "it learns"
