"""The table of runs: the queue, and where each run stands. Their states follow ``RUN_TABLE``."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Callable
from typing import Any

from tinyfleet.coordinator.errors import IllegibleRun, UnknownRun
from tinyfleet.coordinator.states import RUN_TABLE, RunEvent, RunState
from tinyfleet.coordinator.store.database.database import Database, as_json, from_json
from tinyfleet.coordinator.store.records import ChosenState
from tinyfleet.coordinator.store.rows import RunRow
from tinyfleet.fedcore.run_spec import RunSpec

_COLUMNS = (
    "run, name, method, state, reason, step, round, rounds, created, started, finished, spec, "
    "result, result_step, result_test_accuracy, result_validation_accuracy, warning"
)


class Runs:
    """All runs, in the order of their submission. ``clock`` tells seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    # -- anyone -------------------------------------------------------------------------

    def submit(self, spec: RunSpec) -> str:
        """Put a run at the end of the queue; returns its id, which no other coordinator will give out."""
        slug = re.sub(r"[^a-z0-9]+", "-", spec.name.lower()).strip("-")[:40] or "run"
        run = f"{slug}-{secrets.token_hex(4)}"
        self._db.write(
            "INSERT INTO runs (run, name, method, state, rounds, created, spec) VALUES (?, ?, ?, ?, ?, ?, ?)",
            run,
            spec.name,
            str(spec.method.get("name", "")),
            RUN_TABLE.start,
            spec.training.rounds,
            self._clock(),
            as_json(spec),
        )
        return run

    def request_stop(self, run: str) -> None:
        """Ask the service to stop a run. Raises ``UnknownRun``."""
        if not self._db.write("UPDATE runs SET stop_requested = 1 WHERE run = ?", run):
            raise _unknown(run)

    def all(self) -> list[RunRow]:
        """Every run; one whose row cannot be read is left out."""
        rows = self._db.read(f"SELECT {_COLUMNS} FROM runs ORDER BY position")  # noqa: S608 - names are ours
        return self._db.legible("runs", rows, _row)

    def names(self) -> list[str]:
        """Ids of all runs, those included whose rows cannot be read."""
        return [row["run"] for row in self._db.read("SELECT run FROM runs ORDER BY position")]

    def state(self, run: str) -> str:
        """``RunState`` of one run. Raises ``UnknownRun``."""
        rows = self._db.read("SELECT state FROM runs WHERE run = ?", run)
        if not rows:
            raise _unknown(run)
        return str(rows[0]["state"])

    def get(self, run: str) -> RunRow:
        """One run. Raises ``UnknownRun``, ``IllegibleRun``."""
        rows = self._db.read(f"SELECT {_COLUMNS} FROM runs WHERE run = ?", run)  # noqa: S608
        if not rows:
            raise _unknown(run)
        try:
            return _row(rows[0])
        except Exception as error:  # noqa: BLE001 - a damaged row may break anything
            raise IllegibleRun(f"run {run!r} cannot be read: {error}; submit it again") from None

    def state_sha256(self, run: str) -> str | None:
        """Digest of the latest model state, or None before there is one. Raises ``UnknownRun``."""
        rows = self._db.read("SELECT state_sha256 FROM runs WHERE run = ?", run)
        if not rows:
            raise _unknown(run)
        sha256: str | None = rows[0]["state_sha256"]
        return sha256

    def result_sha256(self, run: str) -> str | None:
        """Digest of its result once it has ended, before that of its latest state. Raises ``UnknownRun``."""
        rows = self._db.read("SELECT coalesce(result_sha256, state_sha256) FROM runs WHERE run = ?", run)
        if not rows:
            raise _unknown(run)
        sha256: str | None = rows[0][0]
        return sha256

    # -- the service --------------------------------------------------------------------

    def next(self) -> str | None:
        """The run that was under way, else the first of the queue."""
        rows = self._db.read(
            "SELECT run FROM runs WHERE finished IS NULL ORDER BY state = ?, position LIMIT 1", RunState.SUBMITTED
        )
        return rows[0]["run"] if rows else None

    def last_ended(self) -> str | None:
        """The run that ended last."""
        rows = self._db.read("SELECT run FROM runs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT 1")
        return rows[0]["run"] if rows else None

    def has_ended(self, run: str) -> bool:
        """True for a run that is known here and over."""
        return bool(self._db.read("SELECT 1 FROM runs WHERE run = ? AND finished IS NOT NULL", run))

    def is_over(self, run: str, step: int) -> bool:
        """True for a step that is known here, and that no result is wanted for any more."""
        rows = self._db.read("SELECT step, rewound_from, finished FROM runs WHERE run = ?", run)
        if not rows:
            return False
        row = rows[0]
        return row["finished"] is not None or step < row["step"] or row["step"] < step <= row["rewound_from"]

    def stopped_in_queue(self) -> list[str]:
        """Runs that the operator wants stopped before they have started."""
        rows = self._db.read("SELECT run FROM runs WHERE state = ? AND stop_requested", RunState.SUBMITTED)
        return [row["run"] for row in rows]

    def stop_requested(self, run: str) -> bool:
        """True once the operator asked for it."""
        rows = self._db.read("SELECT stop_requested FROM runs WHERE run = ?", run)
        return bool(rows and rows[0]["stop_requested"])

    def start(self, run: str) -> None:
        """Its initial state is being computed; once more after a restart."""
        with self._db.transaction():
            self._db.follow("runs", RUN_TABLE, RunEvent.START, {"run": run})
            self._db.write("UPDATE runs SET started = coalesce(started, ?) WHERE run = ?", self._clock(), run)

    def prepared(self, run: str, sha256: str) -> None:
        """Its initial state is on disk."""
        self._db.follow("runs", RUN_TABLE, RunEvent.PREPARED, {"run": run}, state_sha256=sha256)

    def save_evaluation_of_result(self, run: str, test: float | None, validation: float | None) -> None:
        """Accuracy of a result that is the state after no step."""
        self._db.write(
            "UPDATE runs SET result_test_accuracy = ?, result_validation_accuracy = ? WHERE run = ?",
            test,
            validation,
            run,
        )

    # -- parts of the store's transactions ----------------------------------------------

    def save_outcome(self, run: str, outcome: ChosenState) -> None:
        """Which state is its result."""
        self._db.write(
            "UPDATE runs SET result = ?, result_step = ?, result_sha256 = ?, best_sha256 = ?,"
            " result_test_accuracy = ?, result_validation_accuracy = ?, warning = ? WHERE run = ?",
            outcome.result,
            outcome.step,
            outcome.sha256,
            outcome.best_sha256,
            outcome.test_accuracy,
            outcome.validation_accuracy,
            outcome.warning,
            run,
        )

    def end(self, run: str, event: RunEvent, reason: str) -> None:
        """COMPLETE, STOP or FAIL a run. Raises ``AssertionError`` where its state has no such end."""
        if not self._db.follow("runs", RUN_TABLE, event, {"run": run}, reason=reason, finished=self._clock()):
            raise AssertionError(f"run {run} is {self.state(run)}: {event.value} means nothing to it")

    def advance(self, run: str, step: int, round_: int, state_sha256: str) -> None:
        """The state after a step, and the coming step."""
        self._db.write(
            "UPDATE runs SET step = ?, round = ?, state_sha256 = ? WHERE run = ?", step, round_, state_sha256, run
        )


def _unknown(run: str) -> UnknownRun:
    return UnknownRun(f"no run {run!r}; `run list` names those that there are")


def _row(row: sqlite3.Row) -> RunRow:
    return RunRow(**{**dict(row), "spec": from_json(row["spec"], dict[str, Any], "spec")})
