"""The table of steps: what each started from and how it went. Their states follow ``STEP_TABLE``."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Callable
from typing import Any, TypedDict

from tinyfleet.coordinator.states import STEP_TABLE, StepEvent, StepState
from tinyfleet.coordinator.store.database.database import Database, as_json, from_json
from tinyfleet.coordinator.store.records import OpenedStep, StepSummary
from tinyfleet.coordinator.store.rows import StepRow

_COLUMNS = (
    "run, step, stage, round, state, started, finished, duration_s, overhead_s, expected, results, lost, "
    "loss, accuracy, test_loss, test_accuracy, density, attempt, left_out, evaluation, "
    "validation_loss, validation_accuracy"
)

BEST_FIRST = "validation_accuracy IS NULL, validation_accuracy DESC, validation_loss, test_accuracy DESC, step DESC"
"""The order in which ``fedcore.outcome.choice.best`` chooses; without validation data, by test accuracy."""


class Steps:
    """The steps of every run. ``clock`` tells seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    # -- anyone -------------------------------------------------------------------------

    def of(self, run: str) -> list[StepRow]:
        """All steps of a run, in order."""
        traffic: dict[int, list[sqlite3.Row]] = {}
        query = "SELECT step, bytes_up, bytes_down FROM tasks WHERE run = ? AND bytes_up IS NOT NULL"
        for row in self._db.read(query, run):
            traffic.setdefault(row["step"], []).append(row)
        rows = self._db.read(f"SELECT {_COLUMNS} FROM steps WHERE run = ? ORDER BY step", run)  # noqa: S608
        return self._db.legible("steps", rows, lambda row: _row(row, traffic.get(row["step"], [])))

    def states_after(self, run: str) -> dict[int, str]:
        """Step -> digest of the state after it, of all finished steps; a blob may be gone."""
        bases = self.base_states(run, 0)
        rows = self._db.read("SELECT step, state_sha256 FROM runs WHERE run = ? AND state_sha256 IS NOT NULL", run)
        latest = {row["step"]: row["state_sha256"] for row in rows}
        return {step - 1: sha256 for step, sha256 in sorted({**bases, **latest}.items()) if step}

    def best(self, run: str) -> int | None:
        """The step whose state after it was the best when it was measured; None where none has been."""
        rows = self._db.read(
            "SELECT step FROM steps WHERE run = ?"  # noqa: S608 - the order is ours
            " AND coalesce(validation_accuracy, test_accuracy) IS NOT NULL"
            f" ORDER BY {BEST_FIRST} LIMIT 1",
            run,
        )
        return rows[0]["step"] if rows else None

    # -- the service --------------------------------------------------------------------

    def opened(self, run: str) -> OpenedStep | None:
        """The step that is open, if one is."""
        rows = self._db.read(
            "SELECT step, attempt, started FROM steps WHERE run = ? AND state = ?", run, StepState.OPEN
        )
        return OpenedStep(rows[0]["step"], rows[0]["attempt"], rows[0]["started"]) if rows else None

    def base(self, run: str, step: int) -> str | None:
        """Digest of the state that a step started from, or None where there is no such step."""
        rows = self._db.read("SELECT base_sha256 FROM steps WHERE run = ? AND step = ?", run, step)
        return rows[0]["base_sha256"] if rows else None

    def base_states(self, run: str, since: int) -> dict[int, str]:
        """Step -> digest of the state it started from, from step ``since`` on."""
        rows = self._db.read("SELECT step, base_sha256 FROM steps WHERE run = ? AND step >= ?", run, since)
        return {row["step"]: row["base_sha256"] for row in rows}

    def save_evaluation(
        self,
        run: str,
        step: int,
        loss: float | None,
        accuracy: float | None,
        validation: tuple[float, float] | None = None,
    ) -> None:
        """Loss and accuracy of the state after ``step`` on held-out test data, and on ``validation`` data."""
        self._db.write(
            "UPDATE steps SET test_loss = ?, test_accuracy = ?, validation_loss = ?, validation_accuracy = ?"
            " WHERE run = ? AND step = ?",
            loss,
            accuracy,
            *(validation or (None, None)),
            run,
            step,
        )

    def save_no_evaluation(self, run: str, step: int, reason: str) -> None:
        """The state after ``step`` cannot be measured, and why."""
        self._db.write("UPDATE steps SET evaluation = ? WHERE run = ? AND step = ?", reason, run, step)

    # -- parts of the store's transactions ----------------------------------------------

    def open(self, run: str, step: int, stage: str, round_: int, base_sha256: str, expected: int) -> None:
        """A new step, at its first attempt."""
        self._db.write(
            "INSERT INTO steps (run, step, stage, round, state, attempt, base_sha256, started, expected)"
            " VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?)",
            run,
            step,
            stage,
            round_,
            STEP_TABLE.start,
            base_sha256,
            self._clock(),
            expected,
        )

    def extend(self, run: str, step: int, attempt: int) -> None:
        """Another attempt; its tasks are in their table already. Raises ``AssertionError`` where it is not open."""
        expected = self._db.read("SELECT count(*) FROM tasks WHERE run = ? AND step = ?", run, step)[0][0]
        self._follow(StepEvent.SHORT, run, step, attempt=attempt, expected=expected)

    def finish(self, run: str, step: int, summary: StepSummary) -> None:
        """All that is known of the step. Raises ``AssertionError`` where it is not open."""
        self._follow(
            StepEvent.ENOUGH,
            run,
            step,
            finished=self._clock(),
            duration_s=summary.duration_s,
            overhead_s=summary.overhead_s,
            results=summary.results,
            lost=as_json(summary.lost),
            loss=summary.loss,
            accuracy=summary.accuracy,
            density=summary.density,
        )

    def abandon(self, run: str) -> None:
        """The run ends: so does the step that is open, if one is."""
        self._db.follow("steps", STEP_TABLE, StepEvent.ABANDON, {"run": run}, finished=self._clock())

    def leave_out(self, run: str, step: int, left_out: dict[str, str]) -> None:
        """Whom a step could not take into account, beside those that it knows of already."""
        self._db.write(
            "UPDATE steps SET left_out = json_patch(left_out, ?) WHERE run = ? AND step = ?",
            as_json(left_out),
            run,
            step,
        )

    def _follow(self, event: StepEvent, run: str, step: int, **changes: object) -> None:
        if not self._db.follow("steps", STEP_TABLE, event, {"run": run, "step": step}, **changes):
            raise AssertionError(f"step {step} of {run} is not open: {event.value} means nothing to it")


class _Lost(TypedDict):
    device: str
    reason: str


_JSON: dict[str, Any] = {"lost": list[_Lost], "left_out": dict[str, str]}


def _row(row: sqlite3.Row, traffic: list[sqlite3.Row]) -> StepRow:
    decoded = {name: from_json(row[name], kind, name) for name, kind in _JSON.items()}
    values: dict[str, Any] = {**dict(row), **decoded}
    for name in ("bytes_up", "bytes_down"):
        values[name] = float(statistics.median(entry[name] for entry in traffic)) if traffic else None
    return StepRow(**values)
