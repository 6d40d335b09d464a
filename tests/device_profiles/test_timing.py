"""Medians on a clock that the test moves."""

from __future__ import annotations

import pytest

from device_profiles import timing


def rate_when_a_run_takes(seconds):
    """(rate, runs) of ten units of work on a clock that moves only while the work runs; the third hiccups."""
    now, runs = 0.0, 0

    def run():
        nonlocal now, runs
        runs += 1
        now += seconds * (50 if runs == 3 and seconds < 0.01 else 1)

    return timing.median_rate(10.0, run, clock=lambda: now), runs


def test_the_median_bears_a_hiccup():
    rate, runs = rate_when_a_run_takes(0.001)
    assert rate == pytest.approx(10_000)
    assert runs == 1 + timing.REPEATS


@pytest.mark.parametrize(("seconds", "runs"), [(1.6, 3), (3.2, 3), (1.0, 4), (0.1, 8)])
def test_a_slow_probe_repeats_less(seconds, runs):
    assert rate_when_a_run_takes(seconds) == (pytest.approx(10.0 / seconds), runs)


def test_a_short_run_is_repeated_until_it_lasts():
    now, runs = 0.0, 0

    def run():
        nonlocal now, runs
        runs += 1
        now += 0.001

    rate = timing.median_rate(10.0, run, clock=lambda: now, least_s=0.08)
    assert rate == pytest.approx(10_000)
    assert runs == pytest.approx(1 + 63 + timing.REPEATS * 80, abs=timing.REPEATS)
    runs = 0
    timing.median_rate(10.0, run, clock=lambda: now, budget_s=0.1, least_s=0.08)
    assert runs < 1 + 63 + 3 * 81, "the budget holds"
