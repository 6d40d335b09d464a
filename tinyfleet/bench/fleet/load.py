"""Rounds of many virtual devices: how many results a second, how long each waits, what memory grows."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.bench.fleet.rig import Rig, job

ROUND_S = 20.0  # beside a part of a second a device: how long a round may take before the bench gives up
DEVICE_S = 0.6


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One round. Memory in MB (10^6); waits are from a result's offer to its verdict, in seconds."""

    devices: int
    hostile: int  # of them; they refuse their tasks
    round: int
    results: int
    result_bytes: int
    seconds: float  # from the first task that was taken to the last verdict
    results_per_s: float
    wait_p50_s: float
    wait_p99_s: float
    coordinator_mb: float  # resident after the round
    coordinator_peak_mb: float
    broker_mb: float
    broker_peak_mb: float
    load_average: float | None = None  # of the machine in the minute before the end, the bench's own included


def bench_load(
    sizes: Sequence[int],
    rounds: int,
    engine: str,
    hostile_share: float = 0.0,
    done: Callable[[int, float], bool] = lambda devices, share: False,
) -> Iterator[LoadRow]:
    """Fleets of those sizes, one after another; what is ``done`` is left out. Raises ``TransportError``."""
    for devices in sizes:
        if not done(devices, hostile_share):
            with tempfile.TemporaryDirectory(prefix="tinyfleet-load-") as folder:
                yield from _rounds(Path(folder), devices, rounds, engine, round(devices * hostile_share))


def _rounds(folder: Path, devices: int, rounds: int, engine: str, hostile: int) -> Iterator[LoadRow]:
    honest = devices - hostile
    with Rig(folder / "rig", engine) as rig:
        rig.add_devices(devices, hostile)
        rig.submit(job(rounds, devices, hostile))
        for step in range(rounds):
            most_s = ROUND_S * (3 if step == 0 else 1) + DEVICE_S * devices
            rig.until(
                lambda step=step: _judged(rig, step) >= honest,  # type: ignore[misc]
                most_s,
                f"round {step + 1} of {rounds} with {devices} devices",
            )
            judged = [one for one in rig.heard.judged if one["step"] == step and one["verdict"] == "stored"]
            seconds = max(one["judged_at"] for one in judged) - min(one["taken_at"] for one in judged)
            waits = sorted(one["judged_at"] - one["offered_at"] for one in judged)
            yield LoadRow(
                devices=devices,
                hostile=hostile,
                round=step + 1,
                results=len(judged),
                result_bytes=max(one["result_bytes"] for one in judged),
                seconds=round(seconds, 3),
                results_per_s=round(len(judged) / seconds, 2),
                wait_p50_s=round(_quantile(waits, 0.5), 3),
                wait_p99_s=round(_quantile(waits, 0.99), 3),
                coordinator_mb=_mb(rig.coordinator.now),
                coordinator_peak_mb=_mb(rig.coordinator.most),
                broker_mb=_mb(rig.broker.now),
                broker_peak_mb=_mb(rig.broker.most),
                load_average=round(os.getloadavg()[0], 1),
            )


def _judged(rig: Rig, step: int) -> int:
    return sum(one["step"] == step and one["verdict"] == "stored" for one in rig.heard.judged)


def _quantile(ordered: list[float], share: float) -> float:
    """The nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _mb(count: int) -> float:
    return round(count / 1e6, 1)
