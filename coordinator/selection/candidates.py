"""From what the store knows to a choice: candidates of the coming step, and the run's policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from tinyfleet.coordinator.selection.capability import capable
from tinyfleet.coordinator.selection.forecast import Job, forecasts
from tinyfleet.coordinator.selection.policy import Candidate, Selection, uniform
from tinyfleet.coordinator.selection.speed import training_gflops
from tinyfleet.coordinator.store.records import Choice, Part, Share, TaskTime
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.datasets.dataset import batch_count
from tinyfleet.fedcore.datasets.partition import DEVELOPMENT_FRACTION
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import RunSpec

NOBODY: Mapping[str, str] = {}
POLICIES: Mapping[Literal["random", "capability"], Selection] = {"random": uniform, "capability": capable}


class ComingStep(Protocol):
    """What a choice is for."""

    @property
    def run(self) -> str: ...

    @property
    def spec(self) -> RunSpec: ...

    @property
    def method(self) -> Method: ...

    @property
    def step(self) -> int: ...

    def task(self) -> Payload: ...


class History(Protocol):
    """What a choice looks back on: the store's tasks, or what stands in for them."""

    def last_chosen(self, run: str) -> dict[str, int]: ...

    def refusals(self, run: str) -> dict[str, int]: ...

    def unfit(self, run: str) -> dict[str, str]: ...

    def times(
        self, run: str, stage: str, whole_local_steps: Mapping[str, int], deadline_s: float
    ) -> list[TaskTime]: ...


def choose(
    history: History,
    coming: ComingStep,
    rows: Sequence[DeviceRow],
    *,
    size: int,
    misfits: Mapping[str, str] = NOBODY,
) -> Choice:
    """At most ``size`` (0: all) of the devices in ``rows``, with their parts, by the run's policy.

    ``misfits``: devices that are known to be no use to the run, and why.
    """
    fleet = coming.spec.fleet
    barred = {
        **_barred(history.refusals(coming.run), fleet.max_refusals),
        **history.unfit(coming.run),
        **misfits,
    }
    candidates = candidates_of(history, coming, [row for row in rows if row.device not in barred])
    choice = POLICIES[fleet.selection](candidates, fleet, size=size, seed=coming.spec.seed, step=coming.step)
    left_out = [Share(row.device, Part.LEFT_OUT, reason=barred[row.device]) for row in rows if row.device in barred]
    return Choice(tuple(sorted((*choice.shares, *left_out), key=lambda share: share.device)))


def _barred(refusals: Mapping[str, int], most: int) -> dict[str, str]:
    """Devices whose results were refused again and again, and the reason to do without them."""
    return {
        device: f"{count} of its results were refused in this run"
        for device, count in refusals.items()
        if most and count >= most
    }


def candidates_of(history: History, coming: ComingStep, rows: Sequence[DeviceRow]) -> list[Candidate]:
    """All that the store and the method know of each device's job."""
    task, training = coming.task(), coming.spec.training
    stage = str(task.meta["stage"])
    # Only training has local steps to leave out.
    local_steps = {
        row.device: training.local_epochs * batch_count(row.samples, training.batch) if stage == "train" else 0
        for row in rows
    }
    costs = _costs(coming.method, task, [row.samples for row in rows])
    jobs = {row.device: _job(row, max(1, local_steps[row.device]), costs[row.samples]) for row in rows}
    whole = {device: job.local_steps for device, job in jobs.items()}
    times = history.times(coming.run, stage, whole, coming.spec.fleet.deadline_s)
    predicted, last = forecasts(jobs, times), history.last_chosen(coming.run)
    return [
        Candidate(
            row.device,
            samples=row.samples,
            waited=coming.step - last.get(row.device, -1),
            whole_local_steps=local_steps[row.device],
            forecast=predicted.get(row.device),
            need_bytes=costs[row.samples].memory,
            room_bytes=_room(row),
            health=row.health,
        )
        for row in rows
    ]


def _job(row: DeviceRow, local_steps: int, cost: Cost) -> Job:
    gflops, basis = training_gflops(row.profile) or (0.0, "")
    return Job(local_steps, cost.flops if row.samples else 0.0, gflops, basis)


def _costs(method: Method, task: Payload, samples: Sequence[int]) -> dict[int, Cost]:
    """Cost by number of samples: exact at the ends, on the line between them elsewhere, for large fleets' sake."""
    if not samples:
        return {}
    low, high = (
        (count, method.cost(task, count, max(1, round(DEVELOPMENT_FRACTION * count))))
        for count in (max(1, min(samples)), max(1, *samples, 1))
    )
    found = {}
    for count in set(samples):
        share = (count - low[0]) / (high[0] - low[0]) if high[0] > low[0] else 0.0
        flops = low[1].flops + share * (high[1].flops - low[1].flops)
        found[count] = Cost(flops, max(low[1].memory, high[1].memory))
    return found


def _room(row: DeviceRow) -> int:
    """Bytes that a task may take: the agent's limit, and what is free with an idle worker's share; 0: not known."""
    free = row.health.get("free_memory_bytes", 0.0)
    if free:
        free += row.health.get("worker_rss_bytes", 0.0)
    known = [int(size) for size in (row.memory_limit_bytes, free) if size > 0]
    return min(known, default=0)
