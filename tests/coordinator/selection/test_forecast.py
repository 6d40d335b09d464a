"""Predicted times: own tasks first, robustly, else the board's speed as the fleet corrects it."""

from __future__ import annotations

import pytest

from tinyfleet.coordinator.selection.forecast import Job, forecasts
from tinyfleet.coordinator.store.records import TaskTime


def test_without_history_the_analytic_figure_counts():
    found = forecasts({"a": Job(10, 8e9, 2.0, "a data sheet"), "b": Job(10, 8e9)}, [])
    assert set(found) == {"a"}
    assert (found["a"].fixed_s, found["a"].work_s, found["a"].basis) == (0.0, 4.0, "a data sheet")


def test_own_tasks_are_scaled_by_steps_and_one_slow_one_changes_nothing():
    history = [TaskTime("a", 20.0, 23.0, 10)] * 3 + [TaskTime("a", 10.0, 13.0, 5), TaskTime("a", 900.0, 990.0, 10)]
    found = forecasts({"a": Job(40, 1.0, 1.0)}, history)["a"]
    assert (found.fixed_s, found.work_s) == (pytest.approx(3.0), pytest.approx(80.0))
    assert found.basis == "its last 5 tasks"


def test_devices_without_tasks_are_corrected_by_those_that_have_some():
    jobs = {"a": Job(10, 8e9, 2.0), "b": Job(10, 8e9, 8.0, "a data sheet"), "new": Job(10, 4e9)}
    found = forecasts(jobs, [TaskTime("a", 12.0, 14.0, 10), TaskTime("gone", 1.0, 1.0, 1)])
    assert set(found) == {"a", "b"}
    assert (found["b"].fixed_s, found["b"].work_s) == (2.0, pytest.approx(3.0))  # 1 s on paper; a took 3 times that
    assert found["b"].basis == "a data sheet, corrected by the fleet's tasks"


def test_a_clock_that_disagrees_gives_no_negative_time():
    found = forecasts({"a": Job(2, 0.0)}, [TaskTime("a", 5.0, 4.0, 2)])["a"]
    assert (found.fixed_s, found.work_s) == (0.0, 5.0)
