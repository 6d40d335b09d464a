"""No update moves a sum further than the clip: for the integers themselves, whatever a device sends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.privacy.clipping import BITS, StepBase

BOUND = (1 << BITS) ** 2
ANY_FLOAT = st.floats(width=32, allow_nan=True, allow_infinity=True)
CLIPS = st.floats(1e-6, 1e6)


def squares(units):
    """Exactly: Python's integers have no end."""
    return sum(int(value) ** 2 for values in units.values() for value in values)


def base(size=6):
    mask = np.array([True, False] * (size // 2))
    return StepBase(
        {"layer.weight": np.where(mask, 0.5, 0).astype(np.float32), "layer.bias": np.ones(2, np.float32)},
        {"layer.weight": mask},
    )


@settings(max_examples=300)
@given(st.lists(ANY_FLOAT, min_size=8, max_size=8), CLIPS)
def test_whatever_is_sent_the_norm_is_within_the_clip(values, clip):
    sent = {"layer.weight": np.array(values[:6], np.float32), "layer.bias": np.array(values[6:], np.float32)}
    assert squares(base().clipped(sent, clip)) <= BOUND


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 0.99999, 1.0, 1.00001, 1e3, 1e30, 3e38])
@pytest.mark.parametrize("size", [2, 1000, 200_000])
def test_long_vectors_of_any_scale_are_within_the_clip_too(scale, size):
    rng = np.random.default_rng(size)
    change = rng.standard_normal(size)
    change *= min(scale / math.sqrt(float(np.square(change).sum())), 3e38 / np.abs(change).max())
    units = StepBase({"w": np.zeros(size, np.float32)}, {}).clipped({"w": change.astype(np.float32)}, 1.0)
    assert squares(units) <= BOUND
    if scale >= 1.0:  # and hardly below it: cutting to units takes one of each value at most
        assert math.isqrt(squares(units)) >= (1 << BITS) * (1 - 1e-6) - math.sqrt(size)


@given(st.lists(st.floats(-0.125, 0.125, width=32), min_size=8, max_size=8))
def test_a_short_update_is_kept_to_a_unit(values):
    start = base()
    sent = {
        "layer.weight": start.params["layer.weight"] + np.array(values[:6], np.float32),
        "layer.bias": start.params["layer.bias"] + np.array(values[6:], np.float32),
    }
    units = start.clipped(sent, 1.0)
    kept = start.moved(units, 1.0)
    active = start.mask["layer.weight"]
    assert np.allclose(kept["layer.weight"][active], sent["layer.weight"][active], atol=1e-6)
    assert np.allclose(kept["layer.bias"], sent["layer.bias"], atol=1e-6)
    assert not kept["layer.weight"][~active].any()


def test_a_long_update_keeps_its_direction():
    start = StepBase({"w": np.zeros(3, np.float32)}, {})
    moved = start.moved(start.clipped({"w": np.array([30, 40, 0], np.float32)}, 0.5), 0.5)
    assert np.allclose(moved["w"], [0.3, 0.4, 0.0], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_makes_the_update_zero(bad):
    sent = {"layer.weight": np.full(6, 9, np.float32), "layer.bias": np.array([0, bad], np.float32)}
    units = base().clipped(sent, 1.0)
    assert squares(units) == 0


def test_what_lies_outside_the_mask_neither_counts_nor_travels():
    start = base()
    sent = {"layer.weight": np.where(start.mask["layer.weight"], 0.5, 1e30).astype(np.float32)}
    units = start.clipped(sent | {"layer.bias": start.params["layer.bias"]}, 1.0)
    assert squares(units) == 0
    assert units["layer.weight"].shape == (3,)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ({"layer.weight": np.zeros(6, np.float32)}, "wrong arrays"),
        ({"layer.weight": np.zeros(6, np.float32), "layer.bias": np.zeros(3, np.float32)}, "shape"),
        ({"layer.weight": np.zeros(6, np.float32), "layer.bias": np.zeros(2), "more": np.zeros(1)}, "wrong arrays"),
    ],
)
def test_an_update_of_other_arrays_is_refused(sent, reason):
    with pytest.raises(ResultError, match=reason):
        base().clipped(sent, 1.0)
