"""Rows as the coordinator's store hands them out."""

from __future__ import annotations

from typing import Any

from tinyfleet.coordinator.store.rows import StepRow, TaskRow


def step_row(step: int, round_: int, **changed: Any) -> StepRow:
    values: dict[str, Any] = {
        "run": "r", "step": step, "stage": "train", "round": round_, "state": "finished", "started": 1.0,
        "finished": 2.0, "duration_s": 1.0, "overhead_s": 0.1, "expected": 4, "results": 4, "lost": [],
        "loss": 1.0 / (1 + step), "accuracy": None, "test_loss": 0.5, "test_accuracy": 0.9, "density": 0.05,
        "bytes_up": 100.0, "bytes_down": 200.0, "attempt": 1,
    }  # fmt: skip
    return StepRow(**(values | changed))


def task_row(step: int, device: str, **changed: Any) -> TaskRow:
    values: dict[str, Any] = {
        "run": "r", "step": step, "device": device, "state": "stored", "reason": "", "micro_batch": 0,
        "train_s": 0.5, "task_s": 0.6, "peak_rss_bytes": 100, "bytes_up": 100, "bytes_down": 200,
        "engine": "torch", "retries": 0,
        "local_steps_done": 5, "local_steps_total": 5,
    }  # fmt: skip
    return TaskRow(**(values | changed))
