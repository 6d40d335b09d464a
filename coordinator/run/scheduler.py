"""The queue of runs: each is prepared, driven to its end and closed, on disk before it is announced."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.coordinator.errors import DamagedBlob, StoreError
from tinyfleet.coordinator.privacy.accountant import calibrated
from tinyfleet.coordinator.run.engine_process import EngineAnswer, EngineFailed, EngineRequests, Prepared
from tinyfleet.coordinator.run.evaluations import Evaluations
from tinyfleet.coordinator.run.results import Results
from tinyfleet.coordinator.run.run import Run, RunEnd
from tinyfleet.coordinator.states import RunEvent, RunState
from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.store.records import ChosenState
from tinyfleet.coordinator.wire.transfers import Download
from tinyfleet.fedcore.cohort.robust import check_aggregate
from tinyfleet.fedcore.errors import TinyfleetError
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.outcome.choice import with_validation
from tinyfleet.fedcore.privacy.admissible import check_privacy
from tinyfleet.fedcore.protocol.messages import ResultOffer, RunEnded, TaskCancel, TaskState, TaskStatus
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert

log = logging.getLogger(__name__)

_AT_WORK = (TaskState.ACCEPTED, TaskState.RUNNING)

Creator = Callable[[RunSpec], Method]


def create_method(spec: RunSpec) -> Method:
    """The run's method. Raises ``ConfigError``."""
    method = methods.method_of(spec)
    check_aggregate(spec.fleet, method)
    check_privacy(spec, method)
    return method


@dataclass(frozen=True, slots=True)
class Preparation:
    """A run whose initial state the engine process computes."""

    run: str
    spec: RunSpec
    method: Method


class Scheduler:
    """Drives one run at a time, first come first served. Owns the run; where it stands is in the store."""

    def __init__(self, context: Context, engine: EngineRequests, create: Creator = create_method) -> None:
        self._context = context
        self._store = context.store
        self._engine = engine
        self._create = create
        self._results = Results(context)
        self._evaluations = Evaluations(context.store, engine)
        self._preparing: Preparation | None = None
        self._run: Run | None = None
        self._ended = self._store.runs.last_ended()
        self._told: dict[str, str] = {}  # device -> the run that it was last told the end of

    @property
    def waits_for_engine(self) -> bool:
        """True while nothing but the engine process can make the run go on."""
        if self._run is None:
            return self._preparing is not None
        return not self._run.has_open_step and self._evaluations.waiting

    @property
    def _current(self) -> str | None:
        """The run that is prepared or under way."""
        if self._run is not None:
            return self._run.run
        return None if self._preparing is None else self._preparing.run

    # -- time ---------------------------------------------------------------------------

    def resume(self) -> None:
        """After a start: take up the run that was under way, and sweep what an earlier process left."""
        self._store.sweep_leftovers()
        run = self._store.runs.next()
        if run is not None and self._store.runs.state(run) != RunState.SUBMITTED:
            self._take_up(run)
        opened = None if self._run is None else self._store.steps.opened(self._run.run)
        if opened is None:
            self._context.downloads.clear()
        else:
            self._context.downloads.sweep(opened.started)
        if self._run is not None:
            self._run.collect_garbage()
        else:
            self._store.collect_garbage(keep_steps=0)

    def tick(self, now: float) -> None:
        """Everything that is due."""
        try:
            while (answer := self._engine.poll()) is not None:
                self._on_engine(answer)
            if self._current is None and (run := self._store.runs.next()) is not None:
                self._take_up(run)
            if self._run is not None and (end := self._run.tick(now)) is not None:
                self._end(self._run.run, end)
        except StoreError:
            raise  # nothing can be written any more
        except Exception as error:
            # Of another kind it is a defect, or a device's value that got too far: it costs this run, not the loop.
            if self._current is None:
                log.exception("the queue of runs cannot go on")
            else:
                self._end(self._current, _failure(self._current, error))

    def flush(self) -> None:
        """Write progress."""
        if self._run is not None:
            self._run.flush()

    def check_stop(self) -> None:
        """Look whether the operator wants the run stopped; queued runs too."""
        runs, current = self._store.runs, self._current
        for run in runs.stopped_in_queue():
            if run != current:
                self._store.end_run(run, RunEvent.STOP, "stopped before it started")
        if current is not None and runs.stop_requested(current):
            self._end(current, RunEnd(RunEvent.STOP, "stopped by the operator"))

    # -- what devices say ---------------------------------------------------------------

    def on_hello(self, device: str, held: Sequence[str] = ()) -> None:
        """A device (re)connected, and keeps masks of the runs ``held``: it hears of each that has ended."""
        self._told.pop(device, None)
        for run in held:
            if run != self._ended and self._store.runs.has_ended(run):
                self._context.outgoing.send(device, RunEnded(run))
        self._reconcile(device)
        if self._run is not None:
            self._run.on_hello(device)
        self._context.downloads.resume(device)

    def on_heartbeat(self, device: str) -> None:
        """A device is alive."""
        self._reconcile(device)
        if self._run is not None:
            self._run.on_heartbeat(device)

    def _reconcile(self, device: str) -> None:
        """What a device may have missed while it, or the broker, was away. Of unknown runs nothing is said."""
        outgoing = self._context.outgoing
        if (
            self._ended is not None
            and self._told.get(device) != self._ended
            and outgoing.send(device, RunEnded(self._ended))
        ):
            self._told[device] = self._ended
        at = self._context.registry.at(device)
        if at is None:
            return
        run, step = at
        if run != self._current:
            if self._store.runs.has_ended(run):
                outgoing.send(device, RunEnded(run))
        elif self._run is not None and step > self._run.step and self._store.runs.is_over(run, step):
            outgoing.send(device, TaskCancel(run, step, f"the run went back to step {self._run.step}"))

    def on_rejected(self, device: str) -> None:
        """The operator wants a device out."""
        if self._run is not None:
            self._run.on_rejected(device)

    def on_status(self, device: str, status: TaskStatus) -> None:
        """Progress, trouble, or the last word on a task."""
        self._context.registry.note_peak(device, status.peak_rss_bytes)
        run = self._run
        if status.state is TaskState.ACKNOWLEDGED:
            self._store.tasks.note_traffic(device, status.run, status.step, status.traffic)
        elif run is not None and run.on_status(device, status):
            pass
        elif (
            status.state in _AT_WORK
            and (run is None or not run.may_count(status.run, status.step))
            and self._store.runs.is_over(status.run, status.step)
        ):
            self._context.outgoing.send(device, TaskCancel(status.run, status.step, "the step is over"))

    def on_result_offer(self, device: str, offer: ResultOffer) -> None:
        """A result waits in a device's outbox."""
        self._results.on_offer(self._run, device, offer)

    def on_download(self, download: Download) -> None:
        """A result has arrived."""
        self._results.on_download(self._run, download)

    # -- runs ---------------------------------------------------------------------------

    def _take_up(self, run: str) -> None:
        """Start a run, or go on with it after a restart."""
        try:
            row = self._store.runs.get(run)
            spec = with_validation(calibrated(convert(row.spec, RunSpec, f"run {run}")))
            preparation = Preparation(run, spec, self._create(spec))
            sha256 = self._store.runs.state_sha256(run)
            if row.state == RunState.RUNNING and sha256 is not None:
                resumed = self._begin(preparation, self._sound_state(run, row.step, sha256))
                resumed.resume()
                self._run = resumed
                return
            self._store.runs.start(run)
            log.info("run %s starts: %s", run, row.method)
            self._context.downloads.clear()
            self._engine.prepare(spec, self._store.directory / f"initial-{run}.blob")
            self._preparing = preparation
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - it ends alone, whatever its method or its files did
            self._end(run, _failure(run, error))

    def _sound_state(self, run: str, step: int, sha256: str) -> str:
        """Digest of the latest state, or of an earlier one that is kept: what came after it is done again.

        Raises ``DamagedBlob`` where none can be read.
        """
        try:
            self._store.blobs.read(sha256)
        except DamagedBlob as error:
            for earlier, base in sorted(self._store.steps.base_states(run, 0).items(), reverse=True):
                if self._store.blobs.is_sound(base):
                    reason = f"the state of step {step} is damaged; done again from step {earlier}"
                    log.warning("run %s: %s (%s)", run, reason, error)
                    self._store.rewind(run, earlier, reason)
                    return base
            raise
        return sha256

    def _begin(self, prepared: Preparation, state_sha256: str) -> Run:
        run, spec, method = prepared.run, prepared.spec, prepared.method
        return Run(self._context, run, spec, method, state_sha256, self._evaluations)

    def _on_engine(self, answer: EngineAnswer) -> None:
        if self._run is not None:
            if not isinstance(answer, Prepared):
                self._evaluations.on_answer(answer)
        elif self._preparing is not None:
            if isinstance(answer, Prepared):
                self._on_prepared(self._preparing, answer.path)
            elif isinstance(answer, EngineFailed):
                self._end(self._preparing.run, RunEnd(RunEvent.FAIL, answer.reason))

    def _on_prepared(self, preparation: Preparation, path: Path) -> None:
        sha256 = self._store.blobs.put(path.read_bytes())
        self._store.runs.prepared(preparation.run, sha256)
        self._store.sweep_leftovers()  # of engine processes that were ended while they wrote it, too
        self._run, self._preparing = self._begin(preparation, sha256), None

    def _end(self, run: str, end: RunEnd) -> None:
        """Close the run: on disk, then to everyone."""
        waiting: list[str] = []
        step = 0
        if self._run is not None:
            waiting, step = self._run.unsettled(), self._run.step
            self._run.flush()
        outcome = None if self._run is None else _outcome(self._run)
        state = self._store.end_run(run, end.event, end.reason, outcome)
        log.info("run %s: %s%s", run, state.value, f": {end.reason}" if end.reason else "")
        if outcome is not None and outcome.warning:
            log.warning("run %s: %s", run, outcome.warning)
        context = self._context
        for device in waiting:
            context.outgoing.send(device, TaskCancel(run, step, f"run {state.value}"))
        for row in context.registry.candidates():
            if context.outgoing.send(row.device, RunEnded(run)):
                self._told[row.device] = run
        context.downloads.clear()
        context.offered.keep_only(())
        context.registry.forget_masks()
        self._engine.close()
        self._evaluations.clear()
        self._preparing, self._run, self._ended = None, None, run
        self._store.sweep_leftovers()
        self._store.collect_garbage(keep_steps=0)


def _outcome(run: Run) -> ChosenState | None:
    """Which state is the run's result; where that cannot be told it is the latest: the run ends all the same."""
    try:
        return run.outcome()
    except StoreError:
        raise
    except Exception:
        log.exception("run %s: its result is its latest state: which one was asked for cannot be told", run.run)
        return None


def _failure(run: str, error: Exception) -> RunEnd:
    """The end of a run that cannot go on; a defect's traceback is wanted, its kind too."""
    if isinstance(error, TinyfleetError):
        log.error("run %s fails: %s", run, error)
        return RunEnd(RunEvent.FAIL, str(error))
    log.error("run %s fails", run, exc_info=error)
    return RunEnd(RunEvent.FAIL, f"{type(error).__name__}: {error}"[:2000])
