"""The table of tasks: one device's part in one step, and its result. Their phases follow ``TASK_TABLE``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tinyfleet.coordinator.states import FINAL_TASK_PHASES, TASK_TABLE, PhaseEvent, TaskPhase
from tinyfleet.coordinator.store.database.database import Database
from tinyfleet.coordinator.store.records import DEADLINE, CountedResult, Share, TaskNote, TaskTime
from tinyfleet.coordinator.store.rows import TaskRow
from tinyfleet.fedcore.protocol.messages import ResultOffer, Traffic

REMEMBERED = 5  # latest tasks of a device that count: a board that cools down or is given a fan is soon known

_COLUMNS = (
    "run, step, device, state, reason, micro_batch, train_s, task_s, peak_rss_bytes, bytes_up, bytes_down, "
    "engine, retries, local_steps_done, local_steps_total, local_steps, activation_keep, wall_s, levers"
)


class Tasks:
    """The tasks of every run."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- anyone -------------------------------------------------------------------------

    def of(self, run: str) -> list[TaskRow]:
        """All tasks of a run, by step and device."""
        rows = self._db.read(f"SELECT {_COLUMNS} FROM tasks WHERE run = ? ORDER BY step, device", run)  # noqa: S608
        return [TaskRow(**dict(row)) for row in rows]

    def levers(self) -> dict[str, str]:
        """Device -> what the results of its latest task suffer to fit its memory, where they do."""
        rows = self._db.read(
            "SELECT device, levers FROM (SELECT device, levers, row_number() OVER"
            " (PARTITION BY device ORDER BY steps.started DESC) AS age FROM tasks JOIN steps USING (run, step)"
            "  WHERE tasks.state <> ?) WHERE age = 1 AND levers <> ''",
            TASK_TABLE.start,
        )
        return {row["device"]: row["levers"] for row in rows}

    # -- the service reads --------------------------------------------------------------

    def phase(self, run: str, step: int, device: str) -> tuple[TaskPhase, str] | None:
        """Phase and reason of one task, or None where it was never given out."""
        rows = self._db.read(
            "SELECT state, reason FROM tasks WHERE run = ? AND step = ? AND device = ?", run, step, device
        )
        return (TaskPhase(rows[0]["state"]), rows[0]["reason"]) if rows else None

    def counted(self, run: str, step: int) -> list[CountedResult]:
        """The results in the fold of ``step``, in order of arrival."""
        rows = self._db.read(
            "SELECT step, device, result_sha256, train_s FROM tasks WHERE run = ? AND counted_in = ?"
            " ORDER BY arrival",
            run,
            step,
        )
        return [CountedResult(r["step"], r["device"], r["result_sha256"], r["train_s"]) for r in rows]

    def last_chosen(self, run: str) -> dict[str, int]:
        """Device -> latest step of the run that it was given a task of."""
        rows = self._db.read("SELECT device, max(step) AS step FROM tasks WHERE run = ? GROUP BY device", run)
        return {row["device"]: row["step"] for row in rows}

    def refusals(self, run: str) -> dict[str, int]:
        """Device -> how many of its results the run refused."""
        rows = self._db.read(
            "SELECT device, count(*) AS refused FROM tasks WHERE run = ? AND state = ? GROUP BY device",
            run,
            TaskPhase.REFUSED,
        )
        return {row["device"]: row["refused"] for row in rows}

    def unfit(self, run: str) -> dict[str, str]:
        """Device -> why it can do no task of the run, as it said in its present session."""
        rows = self._db.read("SELECT device, reason FROM tasks WHERE run = ? AND unfit ORDER BY step", run)
        return {row["device"]: row["reason"] for row in rows}

    def times(
        self, run: str, stage: str, whole_local_steps: Mapping[str, int], deadline_s: float
    ) -> list[TaskTime]:
        """The latest tasks of each device in this stage, at most ``REMEMBERED``.

        One that missed its deadline took that long at the least. ``whole_local_steps`` are those of the whole
        job, by device; 1 where it cannot be divided.
        """
        rows = self._db.read(
            "SELECT device, local_steps, coalesce(train_s, ?) AS train_s, coalesce(wall_s, task_s, ?) AS wall_s"
            " FROM (SELECT *, row_number() OVER (PARTITION BY device ORDER BY step DESC) AS age FROM tasks"
            "  WHERE run = ? AND (train_s IS NOT NULL OR (state = ? AND reason = ?))"
            "  AND step IN (SELECT step FROM steps WHERE run = ? AND stage = ?))"
            " WHERE age <= ? ORDER BY device, step",
            deadline_s,
            deadline_s,
            run,
            TaskPhase.LOST,
            DEADLINE,
            run,
            stage,
            REMEMBERED,
        )
        return [
            TaskTime(
                row["device"],
                row["train_s"],
                row["wall_s"],
                row["local_steps"] or whole_local_steps[row["device"]],
            )
            for row in rows
            if row["device"] in whole_local_steps
        ]

    # -- the service writes -------------------------------------------------------------

    def save(self, run: str, step: int, note: TaskNote) -> None:
        """A task's phase where a restart must not forget it: retries, failures, refusals.

        The note is of one that follows ``TASK_TABLE`` in memory; a row that has ended stays ended all the same.
        """
        self._db.write(
            "UPDATE tasks SET state = ?, reason = ?, retries = ?, local_steps_done = ?, local_steps_total = ?,"  # noqa: S608
            " micro_batch = CASE WHEN ? > 0 THEN ? ELSE micro_batch END,"
            " levers = CASE WHEN ? <> '' THEN ? ELSE levers END, unfit = max(unfit, ?),"
            " peak_rss_bytes = max(peak_rss_bytes, ?) WHERE run = ? AND step = ? AND device = ?"
            f" AND (state = ? OR state NOT IN ({', '.join('?' * len(FINAL_TASK_PHASES))}))",
            note.phase,
            note.reason,
            note.retries,
            note.local_steps_done,
            note.local_steps_total,
            note.micro_batch,
            note.micro_batch,
            note.levers,
            note.levers,
            note.unfit,
            note.peak_rss_bytes,
            run,
            step,
            note.device,
            note.phase,
            *FINAL_TASK_PHASES,
        )

    def note(self, run: str, step: int, notes: Iterable[TaskNote]) -> None:
        """Progress since the last call."""
        with self._db.relaxed():
            for note in notes:
                self.save(run, step, note)

    def note_traffic(self, device: str, run: str, step: int, traffic: Traffic) -> None:
        """Bytes of one whole task, counted at the device's socket."""
        with self._db.relaxed():
            self._db.write(
                "UPDATE tasks SET bytes_up = ?, bytes_down = ? WHERE run = ? AND step = ? AND device = ?",
                traffic.sent,
                traffic.received,
                run,
                step,
                device,
            )

    def count(self, device: str, offer: ResultOffer, counted_in: int, wall_s: float | None = None) -> None:
        """A result whose blob is stored now belongs to the fold of step ``counted_in``, exactly once.

        ``wall_s`` is the time since its offer left, where that is known.
        """
        key = {"run": offer.run, "step": offer.step, "device": device}
        with self._db.transaction():
            if offer.step == counted_in:
                # The result is here, whatever phase the row was last told.
                self._db.follow("tasks", TASK_TABLE, PhaseEvent.RESULT, key)
                event = PhaseEvent.COUNT
            else:
                event = PhaseEvent.COUNT_LATE
            arrival = self._db.read("SELECT coalesce(max(arrival), 0) + 1 FROM tasks")[0][0]
            counted = self._db.follow(
                "tasks",
                TASK_TABLE,
                event,
                key,
                reason="",
                train_s=offer.train_s,
                task_s=offer.task_s,
                engine=offer.engine,
                result_sha256=offer.manifest.sha256,
                micro_batch=offer.micro_batch,
                levers=offer.levers,
                counted_in=counted_in,
                wall_s=wall_s,
                arrival=arrival,
            )
            if counted:
                self._db.write(
                    "UPDATE tasks SET peak_rss_bytes = max(peak_rss_bytes, ?)"
                    " WHERE run = ? AND step = ? AND device = ?",
                    offer.peak_rss_bytes,
                    *key.values(),
                )

    def uncount(self, run: str, entry: CountedResult) -> None:
        """A stored result is damaged: its task begins anew, or is lost where its own step is over."""
        counted_in_own = "counted_in = step"
        self._db.write(
            f"UPDATE tasks SET state = CASE WHEN {counted_in_own} THEN ? ELSE ? END, reason = ?,"  # noqa: S608
            " result_sha256 = NULL, counted_in = NULL, arrival = NULL WHERE run = ? AND step = ? AND device = ?",
            TASK_TABLE.start,
            TASK_TABLE.target(PhaseEvent.LOSE),
            "its stored result was damaged",
            run,
            entry.step,
            entry.device,
        )

    def refuse(self, device: str, run: str, step: int, reason: str) -> None:
        """A late result is invalid: it will not be looked at again."""
        key = {"run": run, "step": step, "device": device}
        self._db.follow("tasks", TASK_TABLE, PhaseEvent.REFUSE, key, reason=reason)

    # -- parts of the store's transactions ----------------------------------------------

    def offer(self, run: str, step: int, shares: Iterable[Share]) -> None:
        """Each device's task, with the part of the job that it is given."""
        for share in shares:
            self._db.write(
                "INSERT INTO tasks (run, step, device, state, local_steps, activation_keep)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                run,
                step,
                share.device,
                TASK_TABLE.start,
                share.local_steps,
                share.activation_keep,
            )

    def offer_again(self, run: str, step: int, devices: Iterable[str]) -> None:
        """The same part of the job once more, for devices that are back."""
        for device in devices:
            key = {"run": run, "step": step, "device": device}
            self._db.follow("tasks", TASK_TABLE, PhaseEvent.OFFER, key, reason="")

    def lose(self, run: str, step: int, device: str, reason: str) -> None:
        """The step no longer waits for it; one that has ended already keeps its phase and reason."""
        key = {"run": run, "step": step, "device": device}
        self._db.follow("tasks", TASK_TABLE, PhaseEvent.LOSE, key, reason=reason)

    def exclude(self, run: str, results: Mapping[tuple[int, str], str]) -> None:
        """Stored results that do not count after all: (step, device) -> reason."""
        for (step, device), reason in results.items():
            key = {"run": run, "step": step, "device": device}
            self._db.follow("tasks", TASK_TABLE, PhaseEvent.EXCLUDE, key, reason=reason, counted_in=None)

    def lose_all(self, run: str, reason: str) -> None:
        """The run ends: nobody waits for any of its tasks."""
        self._db.follow("tasks", TASK_TABLE, PhaseEvent.LOSE, {"run": run}, reason=reason)
