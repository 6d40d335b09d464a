"""The demo's numbers, put together from the coordinator's store: pure functions of its rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.sparsity.schedule import is_adjustment_round

if TYPE_CHECKING:
    from tinyfleet.coordinator.store.rows import StepRow, TaskRow
    from tinyfleet.fedcore.run_spec import RunSpec

TRAIN = "train"


def training_steps(steps: Iterable[StepRow]) -> list[StepRow]:
    """Finished steps of the training stage."""
    return [step for step in steps if step.stage == TRAIN and step.finished is not None]


def steady_steps(spec: RunSpec, steps: Iterable[StepRow]) -> list[StepRow]:
    """Training steps whose mask every device holds already and which change nothing about it.

    Left out: the first (the mask travels for the first time), adjustment rounds (growth gradients go
    up) and the rounds after them (the new mask goes down).
    """
    own = create(spec.method, problem_of(spec)).settings
    changing = {0} if hasattr(own, "density") else set()  # a dense model has no mask to send
    if getattr(own, "progressive", hasattr(own, "interval")):
        last = getattr(own, "stop", spec.training.rounds)
        adjusted = {r for r in range(spec.training.rounds) if is_adjustment_round(r, own.interval, last)}
        changing |= adjusted | {r + 1 for r in adjusted}
    return [step for step in training_steps(steps) if step.round not in changing]


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is there; None of nothing."""
    present = [value for value in values if value is not None]
    return float(statistics.median(present)) if present else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is there; None of nothing."""
    present = [value for value in values if value is not None]
    return float(statistics.fmean(present)) if present else None


def traffic(tiny_spec: RunSpec, tiny: Sequence[StepRow], dense: Sequence[StepRow]) -> dict[str, Any]:
    """Bytes a device a round at its broker socket, everything counted: medians over the steady rounds.

    Beside them the means over all steps of the tiny run, with selection and adjustments.
    """
    steady = steady_steps(tiny_spec, tiny) or training_steps(tiny)
    return {
        "up_per_device_round": median(s.bytes_up for s in steady),
        "down_per_device_round": median(s.bytes_down for s in steady),
        "dense_up_per_device_round": median(s.bytes_up for s in training_steps(dense)),
        "dense_down_per_device_round": median(s.bytes_down for s in training_steps(dense)),
        "steady_rounds": len(steady),
        "mean_up_per_device_step": mean(s.bytes_up for s in tiny),
        "mean_down_per_device_step": mean(s.bytes_down for s in tiny),
    }


def overhead(steps: Sequence[StepRow]) -> dict[str, float | None]:
    """Wall time of a training round without its slowest device's training: seconds."""
    values = [step.overhead_s for step in training_steps(steps) if step.overhead_s is not None]
    return {"median": median(values), "max": max(values, default=None)}


def losses(steps: Iterable[StepRow]) -> list[dict[str, Any]]:
    """Every task without a result: which run, step and device, and why."""
    return [{"run": step.run, "step": step.step, **loss} for step in steps for loss in step.lost]


def peak_by_device(tasks: Iterable[TaskRow]) -> dict[str, int]:
    """The most memory that each device's worker held, in bytes."""
    peaks: dict[str, int] = {}
    for task in tasks:
        peaks[task.device] = max(peaks.get(task.device, 0), task.peak_rss_bytes)
    return peaks


def engine_by_device(tasks: Iterable[TaskRow]) -> dict[str, str]:
    """The engine that each device trained with."""
    return {task.device: task.engine for task in tasks if task.engine}


def round_rows(steps: Iterable[StepRow], tasks: Iterable[TaskRow]) -> list[dict[str, Any]]:
    """One row a finished step for plots: loss, accuracy, bytes, and the largest worker of the step."""
    peaks: dict[int, int] = {}
    for task in tasks:
        peaks[task.step] = max(peaks.get(task.step, 0), task.peak_rss_bytes)
    return [
        {
            "step": step.step,
            "stage": step.stage,
            "round": step.round,
            "loss": step.loss,
            "test_loss": step.test_loss,
            "test_accuracy": step.test_accuracy,
            "density": step.density,
            "bytes_up": step.bytes_up,
            "bytes_down": step.bytes_down,
            "peak_rss_mb": peaks.get(step.step, 0) / 1e6,
            "duration_s": step.duration_s,
            "overhead_s": step.overhead_s,
            "results": step.results,
            "expected": step.expected,
        }
        for step in steps
        if step.finished is not None
    ]
