"""Rates on a clock that the test moves."""

from __future__ import annotations

import pytest

from tinyfleet.device_profiles.measuring import timing


def rate_when_a_run_takes(seconds, **given):
    """(rate, runs) of ten units of work on a clock that moves only while the work runs."""
    now, runs = 0.0, 0

    def run():
        nonlocal now, runs
        runs += 1
        now += seconds(runs)

    return timing.steady_rate(10.0, run, clock=lambda: now, **given), runs


@pytest.mark.parametrize("taken", [2, 3, 4])
def test_other_programs_may_take_most_repetitions(taken):
    rate, runs = rate_when_a_run_takes(lambda run: 0.05 if run % taken else 0.001)
    assert rate == pytest.approx(10_000 if taken < 4 else 200)
    assert runs == 1 + timing.REPEATS


def test_one_lucky_moment_is_no_rate():
    rate, _ = rate_when_a_run_takes(lambda run: 0.0001 if run == 9 else 0.001)
    assert rate == pytest.approx(10_000)


@pytest.mark.parametrize(("seconds", "runs"), [(1.6, 3), (3.2, 3), (1.0, 4), (0.1, 1 + timing.REPEATS)])
def test_a_slow_probe_repeats_less(seconds, runs):
    assert rate_when_a_run_takes(lambda run: seconds) == (pytest.approx(10.0 / seconds), runs)


def test_a_probe_may_repeat_less_for_another_reason():
    assert rate_when_a_run_takes(lambda run: 0.1, repeats=12) == (pytest.approx(100.0), 13)


def test_a_short_run_is_repeated_until_it_lasts():
    rate, runs = rate_when_a_run_takes(lambda run: 0.001, least_s=0.08)
    assert rate == pytest.approx(10_000)
    assert runs == pytest.approx(1 + 63 + timing.REPEATS * 80, abs=timing.REPEATS)
    _, runs = rate_when_a_run_takes(lambda run: 0.001, budget_s=0.1, least_s=0.08)
    assert runs < 1 + 63 + 3 * 81, "the budget holds"
