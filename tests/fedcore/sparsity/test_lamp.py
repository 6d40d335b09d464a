"""LAMP scores by hand, and what the ranking guarantees."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.fedcore.sparsity.lamp import lamp_mask, lamp_scores
from tinyfleet.fedcore.sparsity.mask import active_counts


def test_scores_by_hand():
    weights = np.array([[1.0, -3.0], [2.0, 0.0]], np.float32)
    np.testing.assert_allclose(lamp_scores(weights), [[1 / 14, 1.0], [4 / 13, 0.0]], rtol=1e-6)
    active = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(lamp_scores(weights, active), [[1 / 5, 0.0], [1.0, 0.0]], rtol=1e-6)


def test_a_scaled_layer_keeps_as_many_weights():
    """What global magnitude gets wrong: a layer's scale says nothing about what its weights are worth."""
    rng = np.random.default_rng(0)
    layers = {"a": rng.standard_normal((16, 16)), "b": rng.standard_normal((16, 16))}
    layers = {name: values.astype(np.float32) for name, values in layers.items()}
    counts = active_counts(lamp_mask(layers, 0.1))
    scaled = active_counts(lamp_mask(layers | {"b": layers["b"] * np.float32(100.0)}, 0.1))
    assert counts == scaled


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.05, 0.3]))
def test_exact_count_no_empty_layer_and_nested(seed, density):
    rng = np.random.default_rng(seed)
    shapes = {"a": (8, 3, 3, 3), "b": (16, 8, 3, 3), "c": (5, 16)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    first = lamp_mask(weights, 0.5)
    second = lamp_mask(weights, density, first)
    total = sum(w.size for w in weights.values())
    assert sum(active_counts(second).values()) == max(3, int(density * total + 1e-9))
    assert min(active_counts(second).values()) >= 1
    assert all((first[name] | ~second[name]).all() for name in shapes)
