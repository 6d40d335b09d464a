"""Predicts what a device's job will take: from its own tasks of the run, else from its board's speed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tinyfleet.coordinator.selection.policy import JobForecast
from tinyfleet.coordinator.store.records import TaskTime


@dataclass(frozen=True, slots=True)
class Job:
    """What the whole job of a step is to one device."""

    local_steps: int  # 1 where the job cannot be divided
    flops: float  # analytic
    gflops: float = 0.0  # of a training step on this board; 0: not known
    basis: str = ""  # of that speed


def forecasts(jobs: Mapping[str, Job], history: Iterable[TaskTime]) -> dict[str, JobForecast]:
    """A forecast for each device of which anything is known.

    Medians of a device's latest tasks, so that one slow task changes little. A device without any is
    predicted from its board's speed, corrected by the median of what the others' boards turned out to need,
    and with their median of all that is not training.
    """
    own: dict[str, list[TaskTime]] = {}
    for entry in history:
        own.setdefault(entry.device, []).append(entry)
    measured = {device: _measured(jobs[device], times) for device, times in own.items() if device in jobs}
    corrections = [
        forecast.work_s / analytic
        for device, forecast in measured.items()
        if (analytic := _analytic_s(jobs[device])) > 0
    ]
    correction = statistics.median(corrections) if corrections else 1.0
    fixed_s = statistics.median([forecast.fixed_s for forecast in measured.values()] or [0.0])
    for device, job in jobs.items():
        seconds = _analytic_s(job)
        if device not in measured and seconds > 0:
            basis = f"{job.basis}, corrected by the fleet's tasks" if corrections else job.basis
            measured[device] = JobForecast(fixed_s, seconds * correction, basis)
    return measured


def _measured(job: Job, times: list[TaskTime]) -> JobForecast:
    fixed_s = statistics.median(max(0.0, entry.wall_s - entry.train_s) for entry in times)
    step_s = statistics.median(entry.train_s / max(1, entry.local_steps) for entry in times)
    tasks = "its last task" if len(times) == 1 else f"its last {len(times)} tasks"
    return JobForecast(fixed_s, step_s * job.local_steps, tasks)


def _analytic_s(job: Job) -> float:
    return job.flops / (job.gflops * 1e9) if job.gflops > 0 else 0.0
