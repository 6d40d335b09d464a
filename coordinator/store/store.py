"""The coordinator's memory on disk, as any process may read it, and what an operator may write.

``coordinator.db`` is SQLite in WAL mode, so the command line reads and writes while the service
runs; the service notices by ``PRAGMA data_version``. The writes of the service itself are in
``ledger.py``.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.coordinator.errors import UnknownDevice, UnknownRun
from tinyfleet.coordinator.states import RunState
from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.coordinator.store.database import Database
from tinyfleet.coordinator.store.rows import DeviceRow, PlanRow, RunRow, StepRow, TaskRow
from tinyfleet.fedcore.protocol.messages import Enrolment
from tinyfleet.fedcore.run_spec import RunSpec

_RUNS = "SELECT run, name, method, state, reason, step, round, rounds, created, started, finished, spec FROM runs"
_STEPS = (
    "SELECT run, step, stage, round, state, started, finished, duration_s, overhead_s, expected, results, lost, "
    "loss, accuracy, test_loss, test_accuracy, density, attempt, left_out FROM steps"
)
_TASKS = (
    "SELECT run, step, device, state, reason, micro_batch, train_s, task_s, peak_rss_bytes, bytes_up, bytes_down, "
    "engine, retries, done, total, steps, keep, wall_s FROM tasks"
)
_DEVICES = (
    "SELECT device, name, enrolment, online, last_seen, profile, health, samples, engines, memory_limit_bytes, "
    "idle_rss_bytes, peak_rss_bytes FROM devices"
)
_PLANS = "SELECT device, run, step, part, chosen, steps, whole_steps, keep, predicted_s, basis, reason FROM plans"


class Store:
    """Runs, steps, tasks, devices and blobs of one state directory, which is made where it is missing.

    One object serves one thread; open another for another. Raises ``StoreError`` where the
    directory cannot be used.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.blobs = BlobStore(directory / "blobs")
        self._clock = clock
        self._db = Database(directory / "coordinator.db")

    def close(self) -> None:
        self._db.close()

    # -- what an operator does ----------------------------------------------------------

    def submit_run(self, spec: RunSpec) -> str:
        """Put a run at the end of the queue; returns its id, which no other coordinator will give out."""
        slug = re.sub(r"[^a-z0-9]+", "-", spec.name.lower()).strip("-")[:40] or "run"
        run = f"{slug}-{secrets.token_hex(4)}"
        self._db.write(
            "INSERT INTO runs (run, name, method, state, rounds, created, spec) VALUES (?, ?, ?, ?, ?, ?, ?)",
            run,
            spec.name,
            str(spec.method.get("name", "")),
            RunState.SUBMITTED,
            spec.training.rounds,
            self._clock(),
            msgspec.json.encode(spec).decode(),
        )
        return run

    def request_stop(self, run: str) -> None:
        """Ask the service to stop a run. Raises ``UnknownRun``."""
        if not self._db.write("UPDATE runs SET stop_requested = 1 WHERE run = ?", run):
            raise _unknown_run(run)

    def set_enrolment(self, device: str, enrolment: Enrolment) -> None:
        """Accept or reject a device. Raises ``UnknownDevice``."""
        if not self._db.write("UPDATE devices SET enrolment = ? WHERE device = ?", enrolment, device):
            raise UnknownDevice(f"no device {device!r} has ever said hello; `devices list` names those that have")

    # -- what anyone reads --------------------------------------------------------------

    def changed(self) -> int:
        """A number that differs once another connection has written."""
        return self._db.data_version()

    def runs(self) -> list[RunRow]:
        """All runs, in the order of their submission."""
        return [_run(row) for row in self._db.read(_RUNS + " ORDER BY position")]

    def run(self, run: str) -> RunRow:
        """One run. Raises ``UnknownRun``."""
        rows = self._db.read(_RUNS + " WHERE run = ?", run)
        if not rows:
            raise _unknown_run(run)
        return _run(rows[0])

    def steps(self, run: str) -> list[StepRow]:
        """All steps of a run, in order."""
        traffic: dict[int, list[sqlite3.Row]] = {}
        query = "SELECT step, bytes_up, bytes_down FROM tasks WHERE run = ? AND bytes_up IS NOT NULL"
        for row in self._db.read(query, run):
            traffic.setdefault(row["step"], []).append(row)
        rows = self._db.read(_STEPS + " WHERE run = ? ORDER BY step", run)
        return [_step(row, traffic.get(row["step"], [])) for row in rows]

    def tasks(self, run: str) -> list[TaskRow]:
        """All tasks of a run, by step and device."""
        rows = self._db.read(_TASKS + " WHERE run = ? ORDER BY step, device", run)
        return [TaskRow(**dict(row)) for row in rows]

    def devices(self) -> list[DeviceRow]:
        """All devices that ever said hello, by name."""
        return [_device(row) for row in self._db.read(_DEVICES + " ORDER BY device")]

    def plans(self) -> dict[str, PlanRow]:
        """What the latest selections had in mind, by device; those that none has looked at are not there."""
        rows = [dict(row) for row in self._db.read(_PLANS)]
        return {row["device"]: PlanRow(**{**row, "chosen": bool(row["chosen"])}) for row in rows}

    def state_blob(self, run: str) -> Path | None:
        """The latest model state (codec, fp32, lossless), or None before there is one. Raises ``UnknownRun``."""
        rows = self._db.read("SELECT state_sha256 FROM runs WHERE run = ?", run)
        if not rows:
            raise _unknown_run(run)
        sha256 = rows[0]["state_sha256"]
        return None if sha256 is None else self.blobs.path(sha256)


def _unknown_run(run: str) -> UnknownRun:
    return UnknownRun(f"no run {run!r}; `run list` names those that there are")


def _run(row: sqlite3.Row) -> RunRow:
    return RunRow(**{**dict(row), "spec": msgspec.json.decode(row["spec"])})


def _step(row: sqlite3.Row, traffic: list[sqlite3.Row]) -> StepRow:
    decoded = {name: msgspec.json.decode(row[name]) for name in ("lost", "left_out")}
    values: dict[str, Any] = {**dict(row), **decoded}
    for name in ("bytes_up", "bytes_down"):
        values[name] = float(statistics.median(entry[name] for entry in traffic)) if traffic else None
    return StepRow(**values)


def _device(row: sqlite3.Row) -> DeviceRow:
    values: dict[str, Any] = dict(row)
    for name in ("profile", "health", "engines"):
        values[name] = msgspec.json.decode(row[name])
    return DeviceRow(**{**values, "online": bool(row["online"])})
