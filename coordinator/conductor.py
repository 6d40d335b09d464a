"""The life of runs: queue, preparation, step after step, end. Every change is on disk before it is announced."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from coordinator.aggregation import counted_phase
from coordinator.context import Context
from coordinator.errors import StoreError
from coordinator.live_run import LiveRun
from coordinator.model import Evaluated, Model, ModelEvent, ModelFailed, Prepared
from coordinator.open_step import OpenStep
from coordinator.rounds import (
    RUN_TABLE,
    RunEvent,
    RunState,
    StepEvent,
    TaskEvent,
    TaskPhase,
    advance,
)
from coordinator.transfers import Download
from fedcore.errors import CodecError, ResultError, TinyfleetError
from fedcore.methods import registry as methods
from fedcore.methods.method import Method
from fedcore.protocol.messages import (
    ResultOffer,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    TaskState,
    TaskStatus,
    Verdict,
)
from fedcore.run_spec import RunSpec
from fedcore.settings import convert

log = logging.getLogger(__name__)

MAX_EVALUATIONS = 4  # states that may wait for the model process; older ones are skipped

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
        self._run: str | None = None
        self._state = RunState.SUBMITTED
        self._spec = RunSpec()
        self._live: LiveRun | None = None
        self._late: dict[str, int] = {}  # device -> earlier step that it is still at, and that may still count
        self._evaluations: dict[int, str] = {}  # step -> state that waits for the model process or is in it
        self._evaluating: int | None = None
        self._ended = self._ledger.last_ended_run()

    @property
    def waits_for_model(self) -> bool:
        """True while nothing but the model process can make the run go on."""
        return self._state is RunState.PREPARING or (
            self._live is not None and self._live.open is None and bool(self._evaluations)
        )

    @property
    def open_step(self) -> OpenStep | None:
        return None if self._live is None else self._live.open

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
        self._at(device)
        if self._ended is not None:
            self._context.post.send(device, RunEnded(self._ended))
        if self.open_step is not None:
            self.open_step.on_hello(device)
        self._context.downloads.resume(device)

    def on_heartbeat(self, device: str) -> None:
        """A device is alive."""
        self._at(device)
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
        elif status.state in (TaskState.ACCEPTED, TaskState.RUNNING) and not self._may_count(
            status.run, status.step
        ):
            self._context.post.send(device, TaskCancel(status.run, status.step, "the step is over"))

    def on_result_offer(self, device: str, offer: ResultOffer) -> None:
        """Fetch a result that can count; say at once where it cannot."""
        verdict = self._verdict(device, offer)
        if verdict is not None:
            self._answer(device, offer, *verdict)
        elif self.open_step is not None:
            if offer.step == self.open_step.step:
                self.open_step.on_result_offered(device)
            self._context.downloads.begin(device, offer)
            for download in self._context.downloads.complete():
                self.on_download(download)

    def on_download(self, download: Download) -> None:
        """A result is here: fold it, store it, and only then say so."""
        device, offer = download.device, download.offer
        try:
            path = self._context.downloads.take(download)
        except CodecError as error:
            self._refuse(device, offer, str(error))
            return
        if path is None:
            return
        verdict = self._verdict(device, offer)  # the step may have closed meanwhile
        step = self.open_step
        if verdict is None and step is not None:
            try:
                self._count(step, device, offer, path)
                verdict = (Verdict.STORED, "")
            except ResultError as error:
                self._refuse(device, offer, str(error))
        path.unlink(missing_ok=True)
        if verdict is not None:
            self._answer(device, offer, *verdict)

    # -- results ------------------------------------------------------------------------

    def _count(self, step: OpenStep, device: str, offer: ResultOffer, path: Path) -> None:
        """Fold, then make it durable. A crash in between loses the fold, and the device offers it again."""
        phase = counted_phase(offer.step, step.step)
        step.fold.add(offer.step, device, path.read_bytes())
        self._ledger.blobs.adopt(path, offer.manifest.sha256)
        self._ledger.count_result(device, offer, phase, step.step)
        self._context.registry.note_peak(device, offer.peak_rss_bytes)
        if phase is TaskPhase.STORED:
            step.settle(device, TaskEvent.COUNT)
        else:
            self._late.pop(device, None)

    def _verdict(self, device: str, offer: ResultOffer) -> tuple[Verdict, str] | None:
        """The answer that needs no look at the result; None: it can count."""
        found = self._ledger.task_phase(offer.run, offer.step, device)
        if found is None:
            return Verdict.REFUSED, "no such task was given to this device"
        phase, reason = found
        if phase in (TaskPhase.STORED, TaskPhase.LATE):
            return Verdict.DUPLICATE, ""
        if phase in (TaskPhase.REFUSED, TaskPhase.FAILED):
            return Verdict.REFUSED, reason
        if not self._context.registry.accepted(device):
            return Verdict.REFUSED, "the device is not accepted"
        if not self._may_count(offer.run, offer.step):
            return Verdict.REFUSED, "too late: its step is over"
        if offer.manifest.size > self._context.config.max_result_bytes:
            reason = f"{offer.manifest.size} bytes; at most {self._context.config.max_result_bytes} are taken"
            self._mark_refused(device, offer, reason)
            return Verdict.REFUSED, reason
        return None

    def _may_count(self, run: str, step: int) -> bool:
        """True for the coming or open step of the live run, and for earlier ones within the staleness window."""
        live = self._live
        if live is None or run != live.run or self._state is not RunState.RUNNING:
            return False
        return step == live.step or live.counts_late(step)

    def _refuse(self, device: str, offer: ResultOffer, reason: str) -> None:
        log.warning("result of %s for step %d refused: %s", device, offer.step, reason)
        self._mark_refused(device, offer, reason)
        self._answer(device, offer, Verdict.REFUSED, reason)

    def _mark_refused(self, device: str, offer: ResultOffer, reason: str) -> None:
        step = self.open_step
        if step is not None and offer.step == step.step:
            step.settle(device, TaskEvent.REFUSE, reason)
        else:
            self._ledger.refuse_late(device, offer.run, offer.step, reason)
            self._late.pop(device, None)

    def _answer(self, device: str, offer: ResultOffer, verdict: Verdict, reason: str) -> None:
        self._context.post.send(device, ResultVerdict(offer.run, offer.step, verdict, reason[:2000]))

    # -- steps --------------------------------------------------------------------------

    def _drive(self, live: LiveRun, now: float) -> None:
        if live.open is None:
            if live.method.finished(live.state):
                self._complete()
            else:
                self._open_next(live, now)
            return
        live.open.tick(now)
        match live.open.outcome(now):
            case StepEvent.ENOUGH:
                self._close(live)
                if live.method.finished(live.state):
                    self._complete()
                else:
                    self._open_next(live, now)
            case StepEvent.SHORT:
                self._retry(live, live.open)
            case _:
                pass

    def _open_next(self, live: LiveRun, now: float) -> None:
        """Open the coming step once enough devices are there."""
        fleet, registry = live.spec.fleet, self._context.registry
        self._drop_too_late(live)
        if registry.awaits():
            return
        candidates = [row for row in registry.candidates() if row.device not in self._late]
        needed = max(fleet.min_results, fleet.min_devices if live.step == 0 else 1)
        if len(candidates) < needed:
            return
        cohort = self._context.selection(candidates, size=fleet.cohort, seed=live.spec.seed, step=live.step)
        live.open_step(cohort, now)
        if live.open is not None:
            live.open.tick(now)
        self._collect_garbage(live)

    def _close(self, live: LiveRun) -> None:
        """Finish the open step, then tell those who are late, then measure the new state."""
        waiting = [] if live.open is None else live.open.unsettled()
        step = live.finish_step()
        for device in waiting:
            if live.spec.fleet.staleness:
                self._late[device] = step.step
            else:
                self._context.post.send(device, TaskCancel(step.run, step.step, "the step is over"))
        if not live.spec.fleet.staleness:
            self._context.downloads.forget(step.run, step.step)
        self._evaluate(live, step.step)

    def _retry(self, live: LiveRun, step: OpenStep) -> None:
        """Too few results: try again with the same state, or say why that is hopeless."""
        registry, fleet = self._context.registry, live.spec.fleet
        others = [
            row for row in registry.candidates() if row.device not in step.tasks and row.device not in self._late
        ]
        room = max(0, fleet.cohort - len(step.unsettled()) - step.fold.results) if fleet.cohort else len(others)
        seed, number = live.spec.seed, live.step
        fresh = self._context.selection(others, size=room, seed=seed, step=number) if others and room else ()
        may_answer = any(registry.online(t.device) for t in step.tasks.values() if _may_answer(t.phase))
        if fresh or may_answer:
            if step.attempt >= self._context.config.step_attempts:
                self._end(
                    RunEvent.FAIL, f"step {number}: {_shortage(step, fleet.min_results)} in {step.attempt} tries"
                )
                return
            log.warning("run %s: step %d: %s; trying again", live.run, number, _shortage(step, fleet.min_results))
            step.retry(fresh, step.attempt + 1)
        elif any(_may_answer(task.phase) for task in step.tasks.values()):
            step.wait_again()  # everyone is away: that is no attempt
        else:
            self._end(RunEvent.FAIL, f"step {number}: {_shortage(step, fleet.min_results)}, and no device is left")

    def _at(self, device: str) -> None:
        """A device that is no longer at an earlier step is free again."""
        known = self._context.registry.get(device)
        if device in self._late and known is not None and known.task is None:
            del self._late[device]

    def _drop_too_late(self, live: LiveRun) -> None:
        for device, step in list(self._late.items()):
            if not live.counts_late(step):
                del self._late[device]
                self._context.post.send(device, TaskCancel(live.run, step, "too many steps ago"))

    def _collect_garbage(self, live: LiveRun) -> None:
        uploads, step = self._context.uploads, live.open
        if step is not None:
            uploads.keep_only(step.blobs.digests)
        keep_steps = max(self._context.config.keep_states, live.spec.fleet.staleness + 1)
        self._ledger.collect_garbage(keep_steps=keep_steps, keep=[*uploads.digests, *self._evaluations.values()])

    # -- runs ---------------------------------------------------------------------------

    def _take_up(self, run: str) -> None:
        """Start a run, or go on with it after a restart."""
        row = self._ledger.run(run)
        self._run, self._state = run, RunState(row.state)
        try:
            self._spec = convert(row.spec, RunSpec, f"run {run}")
            method = self._create(self._spec)
            sha256 = self._ledger.state_sha256(run)
            if sha256 is not None and self._state is RunState.RUNNING:
                self._go_on(run, method, sha256)
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

    def _go_on(self, run: str, method: Method, sha256: str) -> None:
        live = LiveRun(self._context, run, self._spec, method, sha256)
        live.resume_step()
        self._live = live
        last = next((row for row in self._ledger.steps(run) if row.step == live.step - 1), None)
        if last is not None and last.test_accuracy is None:
            self._evaluate(live, last.step)

    def _on_model(self, event: ModelEvent) -> None:
        match event:
            case Prepared(path) if self._run is not None and self._state is RunState.PREPARING:
                sha256 = self._ledger.blobs.put(path.read_bytes())
                self._ledger.save_initial_state(self._run, sha256)
                path.unlink()
                self._state = advance(RUN_TABLE, self._state, RunEvent.PREPARED)
                self._live = LiveRun(self._context, self._run, self._spec, self._create(self._spec), sha256)
            case Evaluated(step, loss, accuracy) if self._run is not None:
                self._ledger.save_evaluation(self._run, step, loss, accuracy)
                self._evaluations.pop(step, None)
                self._next_evaluation()
            case ModelFailed(reason) if self._state is RunState.PREPARING:
                self._end(RunEvent.FAIL, reason)
            case ModelFailed(reason):
                log.warning("a state could not be evaluated: %s", reason)
                self._evaluations.pop(-1 if self._evaluating is None else self._evaluating, None)
                self._next_evaluation()
            case _:
                pass

    def _evaluate(self, live: LiveRun, step: int) -> None:
        """Measure the live state beside the coming step."""
        if not (self._context.config.evaluate and live.training):
            return
        self._evaluations[step] = live.state_sha256
        waiting = [number for number in self._evaluations if number != self._evaluating]
        for number in waiting[:-MAX_EVALUATIONS]:
            del self._evaluations[number]
        if self._evaluating is None:
            self._next_evaluation()

    def _next_evaluation(self) -> None:
        self._evaluating = next(iter(self._evaluations), None)
        if self._evaluating is not None:
            path = self._ledger.blobs.path(self._evaluations[self._evaluating])
            self._model.evaluate(self._spec, self._evaluating, path)

    def _complete(self) -> None:
        """All rounds are done; the run is finished once the last state is measured."""
        if not self._evaluations:
            self._end(RunEvent.COMPLETE)

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
        for device in waiting:
            if step is not None:
                self._context.post.send(device, TaskCancel(run, step.step, f"run {state.value}"))
        for row in self._context.registry.candidates():
            self._context.post.send(row.device, RunEnded(run))
        self._context.downloads.clear()
        self._context.uploads.keep_only(())
        self._context.registry.forget_masks()
        self._model.close()
        self._run, self._live, self._state, self._ended = None, None, RunState.SUBMITTED, run
        self._late.clear()
        self._evaluations.clear()
        self._evaluating = None
        self._ledger.collect_garbage(keep_steps=0)


def _may_answer(phase: TaskPhase) -> bool:
    return phase not in (TaskPhase.STORED, TaskPhase.LATE, TaskPhase.FAILED, TaskPhase.REFUSED)


def _shortage(step: OpenStep, needed: int) -> str:
    reasons = "; ".join(f"{entry['device']}: {entry['reason']}" for entry in step.lost()[:5])
    return f"{step.fold.results} of {needed} needed results ({reasons})"
