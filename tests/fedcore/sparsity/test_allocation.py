from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.sparsity.allocation import candidate_counts, erk_counts, erk_mask, uniform_counts
from tinyfleet.fedcore.sparsity.mask import active_counts
from tinyfleet.fedcore.sparsity.schedule import cosine_count, is_adjustment_round

SHAPES = {"a": (16, 8, 3, 3), "b": (64, 16, 3, 3), "c": (128, 64, 3, 3), "d": (10, 128)}
layer = st.one_of(
    st.tuples(*[st.integers(1, 64)] * 2), st.tuples(st.integers(1, 64), st.integers(1, 64), st.just(3), st.just(3))
)
shape_maps = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), layer, min_size=1, max_size=6)
densities = st.floats(0.001, 1.0)


@given(shape_maps, densities)
def test_counts_stay_within_their_layers(shapes, d):
    for counts in (uniform_counts(shapes, d), erk_counts(shapes, d)):
        assert counts.keys() == shapes.keys()
        assert all(1 <= counts[name] <= math.prod(shapes[name]) for name in shapes)


@given(shape_maps, densities)
def test_erk_meets_the_total_exactly(shapes, d):
    total = sum(map(math.prod, shapes.values()))
    assert sum(erk_counts(shapes, d).values()) == max(len(shapes), math.floor(d * total + 1e-9))


def test_erk_gives_small_layers_the_higher_density():
    counts = erk_counts(SHAPES, 0.1)
    layer_density = {name: counts[name] / math.prod(SHAPES[name]) for name in SHAPES}
    assert layer_density["d"] > layer_density["a"] > layer_density["b"] > layer_density["c"]
    ratio = (sum(SHAPES["b"]) / math.prod(SHAPES["b"])) / (sum(SHAPES["c"]) / math.prod(SHAPES["c"]))
    assert layer_density["b"] / layer_density["c"] == pytest.approx(ratio, rel=0.01)


def test_an_erk_mask_has_erks_counts_and_is_none_where_all_is_dense():
    mask = erk_mask(SHAPES, 0.1, np.random.default_rng(0))
    assert active_counts(mask) == erk_counts(SHAPES, 0.1)
    assert {name: active.shape for name, active in mask.items()} == SHAPES
    assert erk_mask(SHAPES, 1.0, np.random.default_rng(0)) == {}


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5])
def test_density_out_of_range_is_an_error(bad):
    for allocate in (uniform_counts, erk_counts):
        with pytest.raises(ConfigError, match="density"):
            allocate(SHAPES, bad)


@pytest.mark.parametrize("d", [0.3, 0.05, 0.01])
def test_candidates_vary_by_layer_and_agree_in_total(d):
    rng = np.random.default_rng(0)
    pool = [candidate_counts(SHAPES, d, rng) for _ in range(20)]
    total = sum(map(math.prod, SHAPES.values()))
    for counts in pool:
        assert 0.98 * d < sum(counts.values()) / total <= d
        for name, shape in SHAPES.items():
            assert math.floor(0.5 * d * math.prod(shape)) <= counts[name] <= 1.5 * d * math.prod(shape)
    assert len({counts["a"] for counts in pool}) > 3


def test_cosine_counts_follow_the_round_clock():
    assert cosine_count(0, 100, 1000) == 300
    assert cosine_count(50, 100, 1000) == 150
    assert cosine_count(100, 100, 1000) == 0
    assert cosine_count(150, 100, 1000) == 0, "the schedule never rises again after R_stop"
    assert cosine_count(0, 100, 1000, scale=0.2) == 400


def test_adjustment_rounds():
    assert [r for r in range(45) if is_adjustment_round(r, 10, 30)] == [10, 20, 30]
