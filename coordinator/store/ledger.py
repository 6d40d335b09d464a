"""What the running service alone writes. Every method is one transaction, on disk when it returns.

Presence and progress are the exception (``note_*``): they repeat every few seconds, so a power cut
may undo the last of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.coordinator.selection.policy import Choice
from tinyfleet.coordinator.states import RunState, StepState, TaskPhase
from tinyfleet.coordinator.store.choices import Choices
from tinyfleet.coordinator.store.records import CountedResult, Pin, Presence, StepSummary, TaskNote
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello, ResultOffer, Traffic


class Ledger(Choices):
    """The store with the service's own writes."""

    # -- devices ------------------------------------------------------------------------

    def pins(self) -> list[Pin]:
        """Identity, session and enrolment of every known device."""
        rows = self._db.read("SELECT device, public_key, session, enrolment, online FROM devices ORDER BY device")
        return [
            Pin(r["device"], r["public_key"], r["session"], Enrolment(r["enrolment"]), bool(r["online"]))
            for r in rows
        ]

    def save_hello(self, device: str, hello: Hello, enrolment: Enrolment) -> None:
        """A device's introduction. An enrolment that is already there stays."""
        self._db.write(
            "INSERT INTO devices (device, name, public_key, enrolment, session, online, last_seen, profile,"
            " samples, engines, memory_limit_bytes) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)"
            " ON CONFLICT (device) DO UPDATE SET name = excluded.name, session = excluded.session, online = 1,"
            " last_seen = excluded.last_seen, profile = excluded.profile, samples = excluded.samples,"
            " engines = excluded.engines, memory_limit_bytes = excluded.memory_limit_bytes",
            device,
            hello.name,
            hello.public_key,
            enrolment,
            hello.session,
            self._clock(),
            _json(hello.profile),
            hello.samples,
            _json(hello.engines),
            hello.memory_limit_bytes,
        )

    def note_presence(self, notes: Iterable[Presence]) -> None:
        """Signs of life since the last call."""
        now = self._clock()
        with self._db.relaxed():
            for note in notes:
                self._db.write(
                    "UPDATE devices SET session = ?, online = ?, health = coalesce(?, health),"
                    " last_seen = CASE WHEN ? THEN ? ELSE last_seen END,"
                    " idle_rss_bytes = CASE WHEN ? > 0 THEN ? ELSE idle_rss_bytes END,"
                    " peak_rss_bytes = max(peak_rss_bytes, ?) WHERE device = ?",
                    note.session,
                    note.online,
                    None if note.health is None else _json(note.health),
                    note.online,
                    now,
                    note.idle_rss_bytes,
                    note.idle_rss_bytes,
                    note.peak_rss_bytes,
                    note.device,
                )

    # -- runs ---------------------------------------------------------------------------

    def next_run(self) -> str | None:
        """The run that was under way, else the first of the queue."""
        rows = self._db.read(
            "SELECT run FROM runs WHERE finished IS NULL ORDER BY state = 'submitted', position LIMIT 1"
        )
        return rows[0]["run"] if rows else None

    def last_ended_run(self) -> str | None:
        """The run that ended last."""
        rows = self._db.read("SELECT run FROM runs WHERE finished IS NOT NULL ORDER BY finished DESC LIMIT 1")
        return rows[0]["run"] if rows else None

    def stop_requested(self, run: str) -> bool:
        """True once the operator asked for it."""
        rows = self._db.read("SELECT stop_requested FROM runs WHERE run = ?", run)
        return bool(rows and rows[0]["stop_requested"])

    def state_sha256(self, run: str) -> str | None:
        """Digest of the run's latest state."""
        sha256: str | None = self._db.read("SELECT state_sha256 FROM runs WHERE run = ?", run)[0]["state_sha256"]
        return sha256

    def start_run(self, run: str) -> None:
        self._db.write(
            "UPDATE runs SET state = ?, started = coalesce(started, ?) WHERE run = ?",
            RunState.PREPARING,
            self._clock(),
            run,
        )

    def save_initial_state(self, run: str, sha256: str) -> None:
        self._db.write("UPDATE runs SET state = ?, state_sha256 = ? WHERE run = ?", RunState.RUNNING, sha256, run)

    def end_run(self, run: str, state: RunState, reason: str = "") -> None:
        """Finish, stop or fail a run; an open step is abandoned and its open tasks are lost."""
        with self._db.transaction():
            self._db.write(
                "UPDATE tasks SET state = ?, reason = ? WHERE run = ?"
                " AND state IN ('offered', 'accepted', 'running', 'uploading')",
                TaskPhase.LOST,
                f"run {state.value}",
                run,
            )
            self._db.write(
                "UPDATE steps SET state = ?, finished = ? WHERE run = ? AND state = ?",
                StepState.ABANDONED,
                self._clock(),
                run,
                StepState.OPEN,
            )
            self._db.write(
                "UPDATE runs SET state = ?, reason = ?, finished = ? WHERE run = ?",
                state,
                reason,
                self._clock(),
                run,
            )

    # -- steps --------------------------------------------------------------------------

    def open_step(self, run: str, step: int, stage: str, round_: int, base_sha256: str, choice: Choice) -> None:
        """A new step with one offered task for each device of the cohort."""
        with self._db.transaction():
            self._db.write(
                "INSERT INTO steps (run, step, stage, round, state, attempt, base_sha256, started, expected)"
                " VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?)",
                run,
                step,
                stage,
                round_,
                StepState.OPEN,
                base_sha256,
                self._clock(),
                len(choice.cohort),
            )
            self.offer(run, step, choice.cohort)
            self.note_choice(run, step, choice)

    def extend_step(self, run: str, step: int, attempt: int, back: Sequence[str], fresh: Choice) -> None:
        """Another attempt at an open step: its task for devices that are ``back``, and for ``fresh`` ones."""
        with self._db.transaction():
            self.offer_again(run, step, back)
            self.offer(run, step, fresh.cohort)
            self.note_choice(run, step, fresh)
            self._db.write(
                "UPDATE steps SET attempt = ?, expected = (SELECT count(*) FROM tasks WHERE run = ? AND step = ?)"
                " WHERE run = ? AND step = ?",
                attempt,
                run,
                step,
                run,
                step,
            )

    def finish_step(self, run: str, step: int, state_sha256: str, round_: int, summary: StepSummary) -> None:
        """The state after a step, and all that is known of the step, become true at once."""
        with self._db.transaction():
            self._db.write(
                "UPDATE steps SET state = ?, finished = ?, duration_s = ?, overhead_s = ?, results = ?, lost = ?,"
                " loss = ?, accuracy = ?, density = ? WHERE run = ? AND step = ?",
                StepState.FINISHED,
                self._clock(),
                summary.duration_s,
                summary.overhead_s,
                summary.results,
                _json(summary.lost),
                summary.loss,
                summary.accuracy,
                summary.density,
                run,
                step,
            )
            for entry in summary.lost:
                self._db.write(
                    "UPDATE tasks SET state = ?, reason = ? WHERE run = ? AND step = ? AND device = ?"
                    " AND state NOT IN ('failed', 'refused')",
                    TaskPhase.LOST,
                    entry["reason"],
                    run,
                    step,
                    entry["device"],
                )
            self._db.write(
                "UPDATE runs SET step = ?, round = ?, state_sha256 = ? WHERE run = ?",
                step + 1,
                round_,
                state_sha256,
                run,
            )

    def open_step_of(self, run: str) -> tuple[int, int, float] | None:
        """(step, attempt, started) of the step that is open, if one is."""
        rows = self._db.read(
            "SELECT step, attempt, started FROM steps WHERE run = ? AND state = ?", run, StepState.OPEN
        )
        return (rows[0]["step"], rows[0]["attempt"], rows[0]["started"]) if rows else None

    def base_states(self, run: str, since: int) -> dict[int, str]:
        """Step -> digest of the state it started from, from step ``since`` on."""
        rows = self._db.read("SELECT step, base_sha256 FROM steps WHERE run = ? AND step >= ?", run, since)
        return {row["step"]: row["base_sha256"] for row in rows}

    def save_evaluation(self, run: str, step: int, loss: float, accuracy: float) -> None:
        """Loss and accuracy of the state after ``step`` on held-out test data."""
        self._db.write(
            "UPDATE steps SET test_loss = ?, test_accuracy = ? WHERE run = ? AND step = ?",
            loss,
            accuracy,
            run,
            step,
        )

    # -- tasks and results --------------------------------------------------------------

    def save_task(self, run: str, step: int, note: TaskNote) -> None:
        """A task's phase where a restart must not forget it: retries, failures, refusals."""
        self._save_task(run, step, note)

    def note_tasks(self, run: str, step: int, notes: Iterable[TaskNote]) -> None:
        """Progress since the last call."""
        with self._db.relaxed():
            for note in notes:
                self._save_task(run, step, note)

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

    def count_result(
        self,
        device: str,
        offer: ResultOffer,
        phase: TaskPhase,
        counted_in: int,
        wall_s: float | None = None,
    ) -> None:
        """A result whose blob is stored now belongs to the fold of step ``counted_in``, exactly once.

        ``wall_s`` is the time since its offer left, where that is known.
        """
        with self._db.transaction():
            self._db.write(
                "UPDATE tasks SET state = ?, reason = '', train_s = ?, task_s = ?, engine = ?, result_sha256 = ?,"
                " peak_rss_bytes = max(peak_rss_bytes, ?), micro_batch = ?, counted_in = ?, wall_s = ?,"
                " arrival = (SELECT coalesce(max(arrival), 0) + 1 FROM tasks)"
                " WHERE run = ? AND step = ? AND device = ? AND counted_in IS NULL",
                phase,
                offer.train_s,
                offer.task_s,
                offer.engine,
                offer.manifest.sha256,
                offer.peak_rss_bytes,
                offer.micro_batch,
                counted_in,
                wall_s,
                offer.run,
                offer.step,
                device,
            )

    def refuse_late(self, device: str, run: str, step: int, reason: str) -> None:
        """A late result is invalid: it will not be looked at again."""
        self._db.write(
            "UPDATE tasks SET state = ?, reason = ? WHERE run = ? AND step = ? AND device = ? AND state = ?",
            TaskPhase.REFUSED,
            reason,
            run,
            step,
            device,
            TaskPhase.LOST,
        )

    def counted(self, run: str, step: int) -> list[CountedResult]:
        """The results in the fold of ``step``, in order of arrival."""
        rows = self._db.read(
            "SELECT step, device, result_sha256, train_s FROM tasks WHERE run = ? AND counted_in = ?"
            " ORDER BY arrival",
            run,
            step,
        )
        return [CountedResult(r["step"], r["device"], r["result_sha256"], r["train_s"]) for r in rows]

    def task_phase(self, run: str, step: int, device: str) -> tuple[TaskPhase, str] | None:
        """Phase and reason of one task, or None where it was never given out."""
        rows = self._db.read(
            "SELECT state, reason FROM tasks WHERE run = ? AND step = ? AND device = ?", run, step, device
        )
        return (TaskPhase(rows[0]["state"]), rows[0]["reason"]) if rows else None

    def now(self) -> float:
        """The store's clock: seconds since 1970."""
        return self._clock()

    # -- blobs --------------------------------------------------------------------------

    def collect_garbage(self, *, keep_steps: int, keep: Iterable[str] = ()) -> int:
        """Delete blobs that nothing needs any more; returns the bytes freed.

        Kept are the latest state of every run, for runs under way the states of the last
        ``keep_steps`` steps and the results of open steps, and ``keep``.
        """
        needed = set(keep)
        needed |= {r[0] for r in self._db.read("SELECT state_sha256 FROM runs WHERE state_sha256 IS NOT NULL")}
        needed |= {
            r[0]
            for r in self._db.read(
                "SELECT base_sha256 FROM steps JOIN runs USING (run)"
                " WHERE runs.finished IS NULL AND steps.step > runs.step - ?",
                keep_steps,
            )
        }
        needed |= {
            r[0]
            for r in self._db.read(
                "SELECT result_sha256 FROM tasks JOIN steps ON steps.run = tasks.run AND steps.step = counted_in"
                " WHERE steps.state = ?",
                StepState.OPEN,
            )
        }
        return self.blobs.sweep(needed)

    @property
    def incoming(self) -> Path:
        """Where results lie while they arrive."""
        return self.directory / "incoming"

    def _save_task(self, run: str, step: int, note: TaskNote) -> None:
        self._db.write(
            "UPDATE tasks SET state = ?, reason = ?, retries = ?, done = ?, total = ?,"
            " micro_batch = CASE WHEN ? > 0 THEN ? ELSE micro_batch END,"
            " peak_rss_bytes = max(peak_rss_bytes, ?) WHERE run = ? AND step = ? AND device = ?",
            note.phase,
            note.reason,
            note.retries,
            note.done,
            note.total,
            note.micro_batch,
            note.micro_batch,
            note.peak_rss_bytes,
            run,
            step,
            note.device,
        )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
