from __future__ import annotations

import msgspec
import pytest

from tests.tinyfleet.rows import step_row, task_row
from tinyfleet.demo import result as demo_result
from tinyfleet.fedcore.run_spec import RunSpec, TrainingSettings


def spec(**method):
    return RunSpec(method=method, training=TrainingSettings(rounds=8))


def test_steady_steps_leave_out_travelling_masks_and_gradients():
    steps = [step_row(0, 0, stage="bn_statistics"), step_row(1, 0, stage="bn_selection")]
    steps += [step_row(2 + r, r) for r in range(8)]
    fedtiny = spec(name="fedtiny", interval=3, stop=5)
    # r = 3 adjusts, r = 4 carries the new mask, r = 0 the first one.
    assert [s.round for s in demo_result.steady_steps(fedtiny, steps)] == [1, 2, 5, 6, 7]
    fixed = spec(name="fedtiny", progressive=False)
    assert [s.round for s in demo_result.steady_steps(fixed, steps)] == list(range(1, 8))
    assert [s.round for s in demo_result.steady_steps(spec(name="static"), steps)] == list(range(1, 8))
    assert [s.round for s in demo_result.steady_steps(spec(name="fedavg"), steps)] == list(range(8))


def test_traffic():
    fedtiny = spec(name="fedtiny", interval=3, stop=5)
    tiny = [step_row(0, 0, stage="bn_statistics", bytes_up=7.0, bytes_down=9000.0)]
    tiny += [step_row(1 + r, r, bytes_up=100.0 + r, bytes_down=None if r == 7 else 50.0) for r in range(8)]
    dense = [step_row(r, r, bytes_up=1000.0 + r, bytes_down=2000.0) for r in range(8)]
    found = demo_result.traffic(fedtiny, tiny, dense)
    assert found["up_per_device_round"] == 105.0  # of 1, 2, 5, 6, 7
    assert found["down_per_device_round"] == 50.0
    assert found["dense_up_per_device_round"] == 1003.5
    assert found["steady_rounds"] == 5
    assert found["mean_up_per_device_step"] == pytest.approx((7 + sum(100 + r for r in range(8))) / 9)


def test_overhead_counts_finished_training_rounds_only():
    steps = [
        step_row(0, 0, stage="bn_statistics", overhead_s=9.0),
        step_row(1, 0, overhead_s=0.2),
        step_row(2, 1, overhead_s=0.4),
        step_row(3, 2, overhead_s=None, finished=None),
    ]
    assert demo_result.overhead(steps) == {"median": pytest.approx(0.3), "max": 0.4}
    assert demo_result.overhead([]) == {"median": None, "max": None}


def test_losses_peaks_engines():
    steps = [step_row(0, 0), step_row(1, 1, lost=[{"device": "a", "reason": "offline"}])]
    assert demo_result.losses(steps) == [{"run": "r", "step": 1, "device": "a", "reason": "offline"}]
    tasks = [task_row(0, "a", peak_rss_bytes=5), task_row(1, "a", peak_rss_bytes=3), task_row(1, "b", engine="")]
    assert demo_result.peak_by_device(tasks) == {"a": 5, "b": 100}
    assert demo_result.engine_by_device(tasks) == {"a": "torch"}


def test_round_rows_are_json():
    rows = demo_result.round_rows(
        [step_row(0, 0), step_row(1, 1, finished=None)], [task_row(0, "a"), task_row(0, "b")]
    )
    assert len(rows) == 1
    assert msgspec.json.decode(msgspec.json.encode(rows)) == rows
