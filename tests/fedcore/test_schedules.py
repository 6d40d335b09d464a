"""Learning rates of the rounds, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from tinyfleet.fedcore.run_spec import TrainingSettings


def rates(rounds: int, **settings) -> list[float]:
    training = TrainingSettings(rounds=rounds, learning_rate=0.4, **settings)
    return [training.learning_rate_at(index) for index in range(rounds)]


def test_the_default_is_constant_to_the_bit():
    assert rates(3) == [0.4] * 3


def test_geometric_is_what_it_was_to_the_bit():
    assert rates(4, final_learning_rate=0.1) == [0.4 * (0.1 / 0.4) ** (r / 4) for r in range(4)]


def test_cosine_falls_from_the_first_rate_towards_the_last():
    half = math.sqrt(0.5)
    expected = [0.4, 0.1 + 0.15 * (1 + half), 0.25, 0.1 + 0.15 * (1 - half)]
    assert rates(4, schedule="cosine", final_learning_rate=0.1) == pytest.approx(expected, rel=1e-12)
    assert rates(2, schedule="cosine") == pytest.approx([0.4, 0.2])
    assert all(rate > 0 for rate in rates(100, schedule="cosine"))


def test_steps_multiply():
    found = rates(5, schedule="step", step_rounds=2, step_factor=0.5)
    assert found == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.1], rel=1e-12)


def test_a_warm_up_rises_to_the_schedules_rate():
    assert rates(4, warmup_rounds=3) == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-12)
    cosine = rates(4, schedule="cosine")
    warm = rates(4, schedule="cosine", warmup_rounds=1)
    assert warm == pytest.approx([cosine[0] / 2, *cosine[1:]], rel=1e-12)
