"""Channel-aware scores: they empty channels, plain magnitudes do not."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.methods.parts.progressive import adjust
from tinyfleet.fedcore.sparsity.channels import FLOOR, channel_factors
from tinyfleet.fedcore.sparsity.mask import active_counts


def test_factors_by_hand():
    weights = np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    filters, inputs = np.array([5.0, 1.0]) / 5.0, np.array([3.0, np.sqrt(17.0)]) / np.sqrt(17.0)
    np.testing.assert_allclose(channel_factors(weights, 1.0), np.outer(filters, inputs), rtol=1e-6)
    np.testing.assert_allclose(channel_factors(weights, 2.0), np.outer(filters, inputs) ** 2, rtol=1e-6)
    assert np.array_equal(channel_factors(weights, 0.0), np.ones((2, 2)))


def test_empty_channels_keep_a_floor_and_empty_layers_their_scores():
    weights = np.zeros((3, 2, 3, 3), np.float32)
    assert np.array_equal(channel_factors(weights, 1.0), np.ones(weights.shape))
    weights[0, 0] = 1.0
    factors = channel_factors(weights, 1.0)
    assert factors[0, 0].min() == 1.0
    np.testing.assert_allclose(factors[1, 1], FLOOR * FLOOR, rtol=1e-5)


def test_repeated_adjustment_empties_filters():
    """Random gradients, twenty adjustments: the exponent decides how many filters are left with a weight."""
    left = {}
    for exponent in (0.0, 1.0):
        rng = np.random.default_rng(0)
        shape = (32, 16, 3, 3)
        mask = {"w": rng.random(shape) < 0.02}
        params = {"w": (rng.standard_normal(shape) * mask["w"]).astype(np.float32)}
        before = active_counts(mask)["w"]
        for _ in range(20):
            gradients = {"w": rng.standard_normal(shape).astype(np.float32)}
            params, mask = adjust(params, mask, gradients, {"w": before // 4}, exponent)
            grown = mask["w"] & (params["w"] == 0)
            params["w"] += (0.5 * rng.standard_normal(shape) * grown).astype(np.float32)
        assert active_counts(mask)["w"] == before
        left[exponent] = int(mask["w"].any(axis=(1, 2, 3)).sum())
    assert left[1.0] < 0.6 * left[0.0]
