from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.fedcore.methods.problems import graph
from tinyfleet.fedcore.errors import AggregationError, ResultError
from tinyfleet.fedcore.methods.parts.fixed_point import WeightedMean
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.payload import Payload, SparseVector

values = hnp.arrays(
    np.float32, 6, elements=st.floats(-1000, 1000, width=32) | st.floats(-(2.0**24), 2.0**24, width=32)
)
contributions = st.lists(st.tuples(values, st.integers(1, 100_000)), min_size=2, max_size=5)


def mean_of(parts):
    fold = WeightedMean({"a": (6,)})
    for array, weight in parts:
        fold.add({"a": array}, weight)
    return fold.mean()["a"]


@given(contributions)
def test_any_order_gives_the_same_bits(parts):
    first = mean_of(parts)
    for order in itertools.islice(itertools.permutations(parts), 24):
        assert mean_of(order).tobytes() == first.tobytes()


@given(contributions)
def test_the_mean_is_the_weighted_mean(parts):
    arrays = np.array([array for array, _ in parts], np.float64)
    weights = np.array([weight for _, weight in parts], np.float64)
    np.testing.assert_allclose(
        mean_of(parts),
        np.average(arrays, axis=0, weights=weights),
        rtol=1e-6,
        atol=1e-6 + 1e-6 * np.abs(arrays).max(),
    )


def test_one_device_comes_back_unchanged():
    array = np.linspace(-3, 3, 6, dtype=np.float32)
    assert np.allclose(mean_of([(array, 977)]), array, atol=2**-32)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "wrong arrays"),
        ({"a": np.zeros(6, np.float32), "b": np.zeros(1, np.float32)}, "wrong arrays"),
        ({"a": np.zeros((2, 3), np.float32)}, "shape"),
        ({"a": np.full(6, 1e30, np.float32)}, "overflows"),
    ],
)
def test_a_misfit_is_refused_and_changes_nothing(params, message):
    fold = WeightedMean({"a": (6,)})
    fold.add({"a": np.ones(6, np.float32)}, 3)
    with pytest.raises(ResultError, match=message):
        fold.add(params, 5)
    assert (fold.weight, fold.devices) == (3, 1)
    assert np.array_equal(fold.mean()["a"], np.ones(6, np.float32))


def test_the_sum_cannot_wrap_by_many_small_steps():
    fold = WeightedMean({"a": ()})
    for _ in range(8):
        fold.add({"a": np.array(1000.0, np.float32)}, 1 << 16)
    with pytest.raises(AggregationError, match="a: "):
        fold.add({"a": np.array(1000.0, np.float32)}, 1 << 20)
    assert float(fold.mean()["a"]) == 1000.0


def test_an_enormous_value_does_not_end_the_round():
    """As batch norm's variance behind an empty filter: it is carried, and the values beside it stay exact."""
    ordinary, enormous = np.array([0.125, -3.0], np.float32), np.array([0.375, 1.9e9], np.float32)
    mean = WeightedMean({"a": (2,)})
    mean.add({"a": ordinary}, 430)
    mean.add({"a": enormous}, 430)
    assert mean.mean()["a"].tolist() == [0.25, np.float32((1.9e9 - 3.0) / 2)]


@pytest.mark.parametrize("value", [1e30, np.inf, -np.inf, np.nan])
def test_what_no_sum_can_hold_is_refused(value):
    mean = WeightedMean({"a": (2,)})
    with pytest.raises(AggregationError, match="diverged"):
        mean.add({"a": np.array([0.0, value], np.float32)}, 1 << 20)
    assert mean.devices == 0


def test_an_empty_fold_has_no_mean():
    with pytest.raises(ResultError, match="no result"):
        WeightedMean({"a": ()}).mean()


def test_the_gradient_of_an_empty_filter_is_cut_not_refused():
    """Behind batch norm it is thousands of times larger than others; the round survives it and grows there."""
    own = graph()
    mask = {name: np.ones(own.params[name].shape, np.bool_) for name in own.maskable}
    name = own.maskable[1]
    mask[name].reshape(-1)[:5] = False
    fold = TrainFold(own, mask, {name: 3})
    vector = SparseVector(np.array([0, 2, 4]), np.array([1e6, -3e5, 0.5], np.float32))
    params = own.initial_params(0)
    for _ in range(3):
        fold.add(Payload({"loss": 1.0}, params, mask, {name: vector}), 50_000)
    found = fold.gradients()[name].reshape(-1)
    assert found[0] == TrainFold.GRADIENT_LIMIT
    assert found[2] == -TrainFold.GRADIENT_LIMIT
    np.testing.assert_allclose(found[4], 0.5, rtol=1e-6)
