"""The sampler has the distribution that the proof is about: its coins exact, its samples the same everywhere."""

from __future__ import annotations

import hashlib
import math
from decimal import Context
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.privacy import discrete_gaussian as sampler
from tinyfleet.fedcore.privacy.discrete_gaussian import decided, discrete_gaussian, toss
from tinyfleet.fedcore.privacy.noise_key import NoiseStream

KEY = bytes(range(32))


def stream(context=b"test"):
    return NoiseStream(KEY, context)


@pytest.mark.parametrize("deviation", [1, 2, 3, 7])
def test_small_deviations_have_the_exact_probabilities(deviation):
    count = 200_000
    samples = discrete_gaussian(deviation, count, stream())
    values = np.arange(-6 * deviation, 6 * deviation + 1)
    weights = np.exp(-np.square(values) / (2.0 * deviation**2))
    expected = count * weights / weights.sum()
    seen = np.array([np.count_nonzero(samples == value) for value in values])
    usual = expected > 20
    deviations = (seen - expected)[usual] / np.sqrt(expected[usual])
    assert np.abs(deviations).max() < 4.5
    statistic = float(np.square(deviations).sum())  # chi-square: mean n, variance 2 n
    assert abs(statistic - usual.sum()) < 5 * math.sqrt(2 * usual.sum())


def test_large_deviations_are_those_of_a_normal_distribution():
    deviation, count = 3 << 30, 300_000
    samples = discrete_gaussian(deviation, count, stream()) / deviation
    assert abs(samples.mean()) < 4.5 / math.sqrt(count)
    assert abs(samples.var() - 1.0) < 4.5 * math.sqrt(2 / count)
    assert abs(np.mean(samples**4) - 3.0) < 4.5 * math.sqrt(96 / count)
    ordered = np.sort(samples)
    cumulative = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in ordered])
    distance = np.abs(cumulative - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / math.sqrt(count)  # Kolmogorov, one in a thousand


def test_neighbouring_samples_are_not_correlated():
    samples = discrete_gaussian(1 << 30, 200_000, stream()) / 2.0**30
    for lag in (1, 2, 1 << 10):
        assert abs(np.mean(samples[:-lag] * samples[lag:])) < 4.5 / math.sqrt(len(samples) - lag)


def test_samples_depend_on_key_and_context_alone():
    first = discrete_gaussian(5, 1000, stream())
    assert (first == discrete_gaussian(5, 1000, stream())).all()
    other = discrete_gaussian(5, 1000, stream(b"other"))
    assert (first != other).mean() > 0.8
    assert (first != discrete_gaussian(5, 1000, NoiseStream(bytes(32), b"test"))).mean() > 0.8


def test_samples_are_the_same_on_every_machine():
    """Recorded with numpy 2 on x86-64."""
    samples = discrete_gaussian((3 << 29) + 1, 300_000, stream())
    recorded = "2463d9ce1211f898f5946df7d74e46d81e03d1e8d0d57d3148f0d8d899051ccc"
    assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest() == recorded


@pytest.mark.parametrize("deviation", [0, -1, (1 << 48) + 1])
def test_deviations_outside_the_range_are_refused(deviation):
    with pytest.raises(ValueError, match="deviation"):
        discrete_gaussian(deviation, 1, stream())


# -- coins ------------------------------------------------------------------------------


def test_floating_point_decides_as_rational_arithmetic_would(monkeypatch):
    exponents = [Fraction(k, 97) for k in range(2000)]
    given_exponents = np.array([float(x) for x in exponents])
    fast = toss(stream(), given_exponents, exponents.__getitem__)
    monkeypatch.setattr(sampler, "_ABSOLUTE", 2.0)  # no case is clear
    exact = toss(stream(), given_exponents, exponents.__getitem__)
    assert (fast == exact).all()
    assert fast[0]
    assert 0 < fast.sum() < 2000


@given(st.fractions(min_value=Fraction(1, 1000), max_value=30), st.integers(1, 400))
def test_bits_beyond_the_word_decide_where_the_word_cannot(exponent, length):
    """The threshold's own bits are neither below nor above it until the first bit that differs."""
    context = Context(prec=400)
    x = context.divide(exponent.numerator, exponent.denominator)
    bits = int(Fraction(context.exp(-x)) * 2 ** (64 + 640))
    word, rest = bits >> 640, bits & ((1 << 640) - 1)
    changed = rest ^ (1 << (640 - length))
    below = changed < rest
    assert decided(word, exponent, lambda count: changed >> (640 - count)) is below


def test_an_exponent_of_zero_always_comes_up_heads():
    assert decided((1 << 64) - 1, Fraction(0), lambda count: (1 << count) - 1)
