"""The life of runs: queue, preparation, step after step, end. Every change is on disk before it is announced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.run.context import Context
from tinyfleet.coordinator.run.engine_process import Model, ModelEvent, ModelFailed, Prepared
from tinyfleet.coordinator.run.evaluations import Evaluations
from tinyfleet.coordinator.run.results import Intake
from tinyfleet.coordinator.run.run import LiveRun
from tinyfleet.coordinator.run.step import OpenStep
from tinyfleet.coordinator.selection.candidates import choose
from tinyfleet.coordinator.selection.policy import Choice
from tinyfleet.coordinator.states import (
    FINAL_TASK_PHASES,
    RUN_TABLE,
    RunEvent,
    RunState,
    StepEvent,
    TaskEvent,
    advance,
)
from tinyfleet.coordinator.wire.transfers import Download
from tinyfleet.fedcore.errors import TinyfleetError
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.protocol.messages import ResultOffer, RunEnded, TaskCancel, TaskState, TaskStatus
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert

log = logging.getLogger(__name__)

_AT_WORK = (TaskState.ACCEPTED, TaskState.RUNNING)

Creator = Callable[[RunSpec], Method]


def create_method(spec: RunSpec) -> Method:
    """The run's method. Raises ``ConfigError``."""
    return methods.create(spec.method, methods.problem_of(spec))


class Conductor:
    """Drives one run at a time, first come first served."""

    def __init__(self, context: Context, model: Model, create: Creator = create_method) -> None:
        self._context = context
        self._ledger = context.ledger
        self._model = model
        self._create = create
        self._intake = Intake(context)
        self._evaluations = Evaluations(context.ledger, model)
        self._run: str | None = None
        self._state = RunState.SUBMITTED
        self._spec = RunSpec()
        self._ended = self._ledger.last_ended_run()
        self._unfit: dict[str, str] = {}  # devices that the coming step does without, as last told

    @property
    def waits_for_model(self) -> bool:
        """True while nothing but the model process can make the run go on."""
        between = self._live is not None and self._live.open is None and self._evaluations.waiting
        return self._state is RunState.PREPARING or between

    @property
    def open_step(self) -> OpenStep | None:
        return None if self._live is None else self._live.open

    @property
    def _live(self) -> LiveRun | None:
        return self._intake.live

    # -- time ---------------------------------------------------------------------------

    def resume(self) -> None:
        """After a start: take up the run that was under way."""
        run = self._ledger.next_run()
        if run is not None and self._ledger.run(run).state != RunState.SUBMITTED:
            self._take_up(run)

    def tick(self, now: float) -> None:
        """Everything that is due."""
        try:
            while (event := self._model.poll()) is not None:
                self._on_model(event)
            if self._run is None and (run := self._ledger.next_run()) is not None:
                self._take_up(run)
            if self._live is not None:
                self._drive(self._live, now)
        except StoreError:
            raise  # nothing can be written any more
        except TinyfleetError as error:
            log.exception("run %s fails", self._run)
            self._end(RunEvent.FAIL, str(error))

    def flush(self) -> None:
        """Write progress."""
        if self.open_step is not None:
            self.open_step.flush()

    def check_stop(self) -> None:
        """Look whether the operator wants the run stopped; queued runs too."""
        for row in self._ledger.runs():
            if row.state == RunState.SUBMITTED and row.run != self._run and self._ledger.stop_requested(row.run):
                self._ledger.end_run(row.run, RunState.STOPPED, "stopped before it started")
        if self._run is not None and self._ledger.stop_requested(self._run):
            self._end(RunEvent.STOP, "stopped by the operator")

    # -- what devices say ---------------------------------------------------------------

    def on_hello(self, device: str) -> None:
        """A device (re)connected."""
        self._intake.free(device)
        if self._ended is not None:
            self._context.post.send(device, RunEnded(self._ended))
        if self.open_step is not None:
            self.open_step.on_hello(device)
        self._context.downloads.resume(device)

    def on_heartbeat(self, device: str) -> None:
        """A device is alive."""
        self._intake.free(device)
        if self.open_step is not None:
            self.open_step.on_heartbeat(device)

    def on_rejected(self, device: str) -> None:
        """The operator wants a device out."""
        step = self.open_step
        if step is not None and device in step.unsettled():
            step.settle(device, TaskEvent.LOSE, "rejected by the operator")
            self._context.post.send(device, TaskCancel(step.run, step.step, "rejected by the operator"))

    def on_status(self, device: str, status: TaskStatus) -> None:
        """Progress, trouble, or the last word on a task."""
        self._context.registry.note_peak(device, status.peak_rss_bytes)
        step = self.open_step
        if status.state is TaskState.ACKNOWLEDGED:
            self._ledger.note_traffic(device, status.run, status.step, status.traffic)
        elif step is not None and (status.run, status.step) == (step.run, step.step):
            step.on_status(device, status)
        elif status.state in _AT_WORK and not self._intake.may_count(status.run, status.step):
            self._context.post.send(device, TaskCancel(status.run, status.step, "the step is over"))

    def on_result_offer(self, device: str, offer: ResultOffer) -> None:
        """A result waits in a device's outbox."""
        self._intake.on_offer(device, offer)

    def on_download(self, download: Download) -> None:
        """A result has arrived."""
        self._intake.on_download(download)

    # -- steps --------------------------------------------------------------------------

    def _drive(self, live: LiveRun, now: float) -> None:
        if live.open is None:
            self._go_on(live, now)
            return
        live.open.tick(now)
        match live.open.outcome(now):
            case StepEvent.ENOUGH:
                self._close(live)
                self._go_on(live, self._context.clock())
            case StepEvent.SHORT:
                self._retry(live, live.open)
            case _:
                pass

    def _go_on(self, live: LiveRun, now: float) -> None:
        """Open the next step, or finish the run once its last state is measured."""
        if not live.method.finished(live.state):
            self._open_next(live, now)
        elif not self._evaluations.waiting:
            self._end(RunEvent.COMPLETE)

    def _open_next(self, live: LiveRun, now: float) -> None:
        """Open the coming step once enough devices are there."""
        fleet, registry = live.spec.fleet, self._context.registry
        for device, step in self._intake.drop_too_late(live).items():
            self._context.post.send(device, TaskCancel(live.run, step, "too many steps ago"))
        if registry.awaits():
            return
        candidates = [row for row in registry.candidates() if row.device not in self._intake.late]
        if len(candidates) < max(fleet.min_results, fleet.min_devices if live.step == 0 else 1):
            return
        choice = choose(self._ledger, live, candidates, size=fleet.cohort)
        if len(choice.cohort) < fleet.min_results:
            self._wait_for_fitness(live, choice)
            return
        self._unfit = {}
        live.open_step(choice, now).tick(now)
        self._collect_garbage(live)

    def _wait_for_fitness(self, live: LiveRun, choice: Choice) -> None:
        """Too few of those who are there can take part: said once, and again when the reasons change."""
        if choice.left_out.keys() != self._unfit.keys():
            log.warning("run %s: step %d waits for devices: %s", live.run, live.step, choice.left_out)
            self._ledger.note_waiting(live.run, live.step, choice)
        self._unfit = choice.left_out

    def _close(self, live: LiveRun) -> None:
        """Finish the open step, then tell those who are late, then measure the new state."""
        waiting = [] if live.open is None else live.open.unsettled()
        step = live.finish_step()
        if live.spec.fleet.staleness:
            self._intake.late.update(dict.fromkeys(waiting, step.step))
        else:
            for device in waiting:
                self._context.post.send(device, TaskCancel(step.run, step.step, "the step is over"))
            self._context.downloads.forget(step.run, step.step)
        self._evaluate(live, step.step)

    def _retry(self, live: LiveRun, step: OpenStep) -> None:
        """Too few results: try again with the same state, or say why that is hopeless."""
        registry, fleet = self._context.registry, live.spec.fleet
        busy = step.tasks.keys() | self._intake.late.keys()
        others = [row for row in registry.candidates() if row.device not in busy]
        room = fleet.cohort - len(step.unsettled()) - step.fold.results if fleet.cohort else len(others)
        fresh = choose(self._ledger, live, others, size=room) if room > 0 else Choice(())
        hopeful = [task.device for task in step.tasks.values() if task.phase not in FINAL_TASK_PHASES]
        shortage = f"step {live.step}: {step.shortage()}"
        if not fresh.cohort and not hopeful:
            self._end(RunEvent.FAIL, f"{shortage}, and no device is left")
        elif not fresh.cohort and not any(registry.online(device) for device in hopeful):
            step.wait_again()  # everyone is away: that is no attempt
        elif step.attempt >= self._context.config.step_attempts:
            self._end(RunEvent.FAIL, f"{shortage} in {step.attempt} tries")
        else:
            log.warning("run %s: %s; trying again", live.run, shortage)
            step.retry(fresh, step.attempt + 1)

    def _evaluate(self, live: LiveRun, step: int) -> None:
        """Measure the live state beside the coming step."""
        if self._context.config.evaluate and live.training:
            self._evaluations.add(live.run, live.spec, step, live.state_sha256)

    def _collect_garbage(self, live: LiveRun) -> None:
        uploads = self._context.uploads
        if live.open is not None:
            uploads.keep_only(live.open.blobs.digests)
        keep_steps = max(self._context.config.keep_states, live.spec.fleet.staleness + 1)
        self._ledger.collect_garbage(keep_steps=keep_steps, keep=[*uploads.digests, *self._evaluations.digests])

    # -- runs ---------------------------------------------------------------------------

    def _take_up(self, run: str) -> None:
        """Start a run, or go on with it after a restart."""
        row = self._ledger.run(run)
        self._run, self._state = run, RunState(row.state)
        try:
            self._spec = convert(row.spec, RunSpec, f"run {run}")
            method = self._create(self._spec)
            sha256 = self._ledger.state_sha256(run)
            if self._state is RunState.RUNNING and sha256 is not None:
                self._resume_run(LiveRun(self._context, run, self._spec, method, sha256))
                return
            self._state = advance(RUN_TABLE, self._state, RunEvent.START)
            self._ledger.start_run(run)
            log.info("run %s starts: %s", run, row.method)
            self._context.downloads.clear()
            self._model.prepare(self._spec, self._ledger.directory / f"initial-{run}.blob")
        except StoreError:
            raise
        except TinyfleetError as error:
            self._end(RunEvent.FAIL, str(error))

    def _resume_run(self, live: LiveRun) -> None:
        """Go on at the open step; the last state is measured again where that was cut short."""
        live.resume_step()
        self._intake.live = live
        for row in self._ledger.steps(live.run):
            if row.step == live.step - 1 and row.test_accuracy is None:
                self._evaluate(live, row.step)

    def _on_model(self, event: ModelEvent) -> None:
        if self._run is None:
            return
        if self._state is not RunState.PREPARING:
            if not isinstance(event, Prepared):
                self._evaluations.on_answer(event)
        elif isinstance(event, Prepared):
            self._on_prepared(self._run, event.path)
        elif isinstance(event, ModelFailed):
            self._end(RunEvent.FAIL, event.reason)

    def _on_prepared(self, run: str, path: Path) -> None:
        sha256 = self._ledger.blobs.put(path.read_bytes())
        self._ledger.save_initial_state(run, sha256)
        path.unlink()
        self._state = advance(RUN_TABLE, self._state, RunEvent.PREPARED)
        self._intake.live = LiveRun(self._context, run, self._spec, self._create(self._spec), sha256)

    def _end(self, event: RunEvent, reason: str = "") -> None:
        """Close the run: on disk, then to everyone."""
        run, step = self._run, self.open_step
        if run is None:
            return
        state = advance(RUN_TABLE, self._state, event)
        waiting = [] if step is None else step.unsettled()
        if step is not None:
            step.flush()
        self._ledger.end_run(run, state, reason)
        log.info("run %s: %s%s", run, state.value, f": {reason}" if reason else "")
        if step is not None:
            for device in waiting:
                self._context.post.send(device, TaskCancel(run, step.step, f"run {state.value}"))
        for row in self._context.registry.candidates():
            self._context.post.send(row.device, RunEnded(run))
        self._context.downloads.clear()
        self._context.uploads.keep_only(())
        self._context.registry.forget_masks()
        self._model.close()
        self._evaluations.clear()
        self._run, self._state, self._ended = None, RunState.SUBMITTED, run
        self._intake.live = None
        self._intake.late.clear()
        self._ledger.collect_garbage(keep_steps=0)
