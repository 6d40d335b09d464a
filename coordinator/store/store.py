"""The coordinator's memory on disk: a table a file, and here what changes several of them at once.

``coordinator.db`` is SQLite in WAL mode, so the command line reads and writes while the service runs; the
service notices by ``PRAGMA data_version``. What an operator may write stands first in each table's file; all
other writes are the running service's alone. A write is on disk when it returns, but for presence and progress
(``note_*``): they repeat every few seconds, so a power cut may undo the last of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.privacy.ledgers import Ledgers
from tinyfleet.coordinator.states import RUN_TABLE, RunEvent, RunState, StepState
from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.coordinator.store.database.database import Database
from tinyfleet.coordinator.store.database.safekeeping import damaged
from tinyfleet.coordinator.store.devices import Devices
from tinyfleet.coordinator.store.records import Choice, ChosenState, StepSummary
from tinyfleet.coordinator.store.runs import Runs
from tinyfleet.coordinator.store.shares import Shares
from tinyfleet.coordinator.store.steps import Steps
from tinyfleet.coordinator.store.tasks import Tasks
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import drop_temporaries, make_private, remove


class Store:
    """Runs, steps, tasks, devices, shares and blobs of one state directory, which is made where it is missing.

    One object serves one thread; open another for another. Raises ``StoreError`` where the
    directory cannot be used.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time, mend: bool = False) -> None:
        """``mend``: this is the running service, and a damaged database may be replaced by its copy."""
        try:
            make_private(directory)
        except OSError as error:
            raise StoreError(f"{directory}: {error}; give a directory that can be made") from None
        self.directory = directory
        self.blobs = BlobStore(directory / "blobs")
        self._clock = clock
        self._db = Database(directory / "coordinator.db", mend=mend)
        self.devices = Devices(self._db, clock)
        self.runs = Runs(self._db, clock)
        self.steps = Steps(self._db, clock)
        self.tasks = Tasks(self._db)
        self.shares = Shares(self._db)
        self.ledgers = Ledgers(directory / "privacy")

    def close(self) -> None:
        self._db.close()

    def changed(self) -> int:
        """A number that differs once another connection has written."""
        return self._db.data_version()

    def now(self) -> float:
        """The store's clock: seconds since 1970."""
        return self._clock()

    @property
    def incoming(self) -> Path:
        """Where results lie while they arrive."""
        return self.directory / "incoming"

    @property
    def put_aside(self) -> Path | None:
        """The database that was damaged, where its copy has taken its place."""
        path = damaged(self.directory / "coordinator.db")
        return path if path.exists() else None

    def state_blob(self, run: str, step: int | None = None) -> Path | None:
        """A model state (codec, fp32, lossless), or None before there is one.

        Without ``step`` the run's result, or while it is under way its latest state; else the state after ``step``.
        Raises ``UnknownRun``, ``ConfigError`` for a step whose state is not kept.
        """
        sha256 = self.runs.result_sha256(run)
        if step is not None:
            states = self.steps.states_after(run)
            sha256 = states.get(step)
            if sha256 is None or not self.blobs.path(sha256).exists():
                kept = ", ".join(str(s) for s, digest in states.items() if self.blobs.path(digest).exists())
                raise ConfigError(f"{run} keeps no state after step {step}; it keeps those after {kept or 'none'}")
        return None if sha256 is None else self.blobs.path(sha256)

    # -- what changes several tables, all or nothing ------------------------------------

    def open_step(self, run: str, step: int, stage: str, round_: int, base_sha256: str, choice: Choice) -> None:
        """A new step with one offered task for each device of the cohort."""
        with self._db.transaction():
            self.steps.open(run, step, stage, round_, base_sha256, len(choice.cohort))
            self.tasks.offer(run, step, choice.cohort)
            self._save_choice(run, step, choice)

    def extend_step(self, run: str, step: int, attempt: int, back: Sequence[str], fresh: Choice) -> None:
        """Another attempt at an open step: its task for devices that are ``back``, and for ``fresh`` ones."""
        with self._db.transaction():
            self.tasks.offer_again(run, step, back)
            self.tasks.offer(run, step, fresh.cohort)
            self._save_choice(run, step, fresh)
            self.steps.extend(run, step, attempt)

    def note_waiting(self, run: str, step: int, choice: Choice) -> None:
        """What a step has in mind that cannot open yet: too few candidates are fit for it."""
        with self._db.relaxed():
            self._save_choice(run, step, choice)

    def finish_step(
        self,
        run: str,
        step: int,
        state_sha256: str,
        round_: int,
        summary: StepSummary,
        excluded: Mapping[tuple[int, str], str] | None = None,
    ) -> None:
        """The state after a step, all that is known of the step, and the results that it excludes: at once."""
        with self._db.transaction():
            self.tasks.exclude(run, excluded or {})
            self.steps.finish(run, step, summary)
            for entry in summary.lost:
                self.tasks.lose(run, step, entry["device"], entry["reason"])
            self.runs.advance(run, step + 1, round_, state_sha256)
        self._db.keep_copy()

    def rewind(self, run: str, step: int, reason: str) -> None:
        """Step ``step`` is done again from the state that it started from; what came after it is forgotten."""
        with self._db.transaction():
            (row,) = self._db.read("SELECT round, base_sha256 FROM steps WHERE run = ? AND step = ?", run, step)
            before = self.runs.get(run).step
            self._db.write("DELETE FROM tasks WHERE run = ? AND step >= ?", run, step)
            self._db.write("DELETE FROM steps WHERE run = ? AND step >= ?", run, step)
            self.runs.advance(run, step, row["round"], row["base_sha256"])
            self._db.write(
                "UPDATE runs SET reason = ?, rewound_from = max(rewound_from, ?) WHERE run = ?", reason, before, run
            )

    def exclude(self, run: str, results: Mapping[tuple[int, str], str]) -> None:
        """An open step goes on without results that it had counted: (step, device) -> reason."""
        with self._db.transaction():
            self.tasks.exclude(run, results)

    def end_run(self, run: str, event: RunEvent, reason: str = "", outcome: ChosenState | None = None) -> RunState:
        """COMPLETE, STOP or FAIL a run: its open step is abandoned, its open tasks are lost; returns its state.

        ``outcome``: which state is its result; without one it is the latest.
        """
        state = RUN_TABLE.target(event)
        with self._db.transaction():
            self.tasks.lose_all(run, f"run {state.value}")
            self.steps.abandon(run)
            self.runs.end(run, event, reason)
            if outcome is not None:
                self.runs.save_outcome(run, outcome)
        self._db.keep_copy()
        return state

    def _save_choice(self, run: str, step: int, choice: Choice) -> None:
        self.shares.save(run, step, choice)
        self.steps.leave_out(run, step, choice.left_out)

    # -- blobs --------------------------------------------------------------------------

    def sweep_leftovers(self) -> None:
        """Delete what an earlier process, or an engine process, had not finished. Called while none is at work."""
        drop_temporaries(self.directory)
        for path in self.directory.glob("initial-*.blob"):
            remove(path)

    def check_whole(self) -> None:
        """Raises ``StoreError`` where there are blobs, and no run that they could be of: the database is gone."""
        started = self._db.read("SELECT 1 FROM runs WHERE started IS NOT NULL LIMIT 1")
        if not started and not self.blobs.is_empty():
            raise StoreError(
                f"{self.directory}: there are blobs, but coordinator.db knows no run that has started: it was "
                "deleted, or another one put in its place; restore it from a backup, or start with --empty to "
                "delete the blobs"
            )

    def collect_garbage(self, *, keep_steps: int, keep: Iterable[str] = ()) -> int:
        """Delete blobs that nothing needs any more; returns the bytes freed.

        Kept are the latest, the best and the resulting state of every run, for runs under way the states of the
        last ``keep_steps`` steps and the results of open steps, and ``keep``.
        """
        needed = {*keep, *self.best_states()}
        needed |= {r[0] for r in self._db.read("SELECT result_sha256 FROM runs WHERE result_sha256 IS NOT NULL")}
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

    def best_states(self) -> set[str]:
        """Digests of the best state of each run, by its measurements so far."""
        needed = {r[0] for r in self._db.read("SELECT best_sha256 FROM runs WHERE best_sha256 IS NOT NULL")}
        for row in self._db.read("SELECT run FROM runs WHERE finished IS NULL AND step > 0"):
            best = self.steps.best(row["run"])
            needed |= {sha256 for step, sha256 in self.steps.states_after(row["run"]).items() if step == best}
        return needed
