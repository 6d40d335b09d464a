from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinyfleet.fedcore.sparsity.mask import (
    active_counts,
    adjust_layer,
    apply_mask,
    density,
    largest,
    magnitude_mask,
    mask_digest,
    random_mask,
    smallest,
)

weights = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
)


@given(weights, st.integers(0, 70))
def test_largest_equals_a_stable_sort(values, count):
    expected = np.sort(np.lexsort((np.arange(len(values)), -np.abs(values)))[:count])
    assert np.array_equal(largest(values, np.arange(len(values)), count), expected)


@given(weights, st.integers(0, 70))
def test_smallest_equals_a_stable_sort(values, count):
    expected = np.sort(np.lexsort((np.arange(len(values)), np.abs(values)))[:count])
    assert np.array_equal(smallest(values, np.arange(len(values)), count), expected)


@given(st.data())
def test_adjusting_never_changes_the_active_count(data):
    values = data.draw(weights)
    active = data.draw(hnp.arrays(np.bool_, values.shape))
    inactive = np.flatnonzero(~active)
    most = min(len(inactive), int(active.sum()))
    grown = np.array(data.draw(st.permutations(list(inactive)))[: data.draw(st.integers(0, most))], np.int64)
    after, pruned = adjust_layer(active, values, grown)
    assert after.sum() == active.sum()
    assert after[grown].all()
    assert not after[pruned].any()
    assert active[pruned].all(), "only weights that were active before the growth may go"
    survivors = np.setdiff1d(np.flatnonzero(active), pruned)
    if len(pruned) and len(survivors):
        assert np.abs(values[pruned]).max() <= np.abs(values[survivors]).min()


def test_growing_an_active_weight_is_refused():
    active = np.array([True, False, False])
    for grown in ([0], [1, 1]):
        with pytest.raises(ValueError, match="distinct and inactive"):
            adjust_layer(active, np.ones(3, np.float32), np.array(grown))


def test_magnitude_and_random_masks_have_exact_counts():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((8, 3, 3, 3), np.float32), "b": np.zeros((4, 5), np.float32)}
    counts = {"a": 17, "b": 3}
    assert active_counts(magnitude_mask(params, counts)) == counts
    shapes = {name: value.shape for name, value in params.items()}
    mask = random_mask(shapes, counts, rng)
    assert active_counts(mask) == counts
    assert density(mask) == pytest.approx(20 / (216 + 20))
    apply_mask(params, mask)
    assert np.count_nonzero(params["a"]) == 17


def test_digest_depends_on_content_not_on_order():
    a, b = np.eye(3, dtype=np.bool_), np.zeros((2, 4), np.bool_)
    assert mask_digest({"a": a, "b": b}) == mask_digest({"b": b, "a": a})
    assert mask_digest({"a": a, "b": b}) != mask_digest({"a": a, "b": ~b})
    assert mask_digest({"a": b}) != mask_digest({"a": b.reshape(4, 2)})
