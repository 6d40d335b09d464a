"""One run while it is under way: opens its steps, closes them, tries again, and says when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.coordinator.errors import DamagedBlob
from tinyfleet.coordinator.privacy.budget import PrivacyBudget
from tinyfleet.coordinator.run.evaluations import Evaluations
from tinyfleet.coordinator.run.late import LateDevices
from tinyfleet.coordinator.run.measuring import Measuring
from tinyfleet.coordinator.run.method_state import MethodState
from tinyfleet.coordinator.run.misfits import Misfits
from tinyfleet.coordinator.run.outcome import RunOutcome
from tinyfleet.coordinator.selection.candidates import choose
from tinyfleet.coordinator.selection.policy import everyone
from tinyfleet.coordinator.states import RunEvent, StepEvent
from tinyfleet.coordinator.step.aggregate import StepFold, StoredResult
from tinyfleet.coordinator.step.context import Context
from tinyfleet.coordinator.step.offers import StepOffers
from tinyfleet.coordinator.step.step import Step
from tinyfleet.coordinator.step.step_task import StepTask
from tinyfleet.coordinator.store.records import Choice, ChosenState, StepSummary
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.coordinator.wire.task_blobs import TaskBlobs
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.privacy.admissible import admission_of
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import ResultOffer, TaskCancel, TaskStatus
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ends, and why."""

    event: RunEvent
    reason: str = ""


class Run:
    """Owns its step. The state on disk and the state in memory move together, disk first."""

    def __init__(
        self,
        context: Context,
        run: str,
        spec: RunSpec,
        method: Method,
        state_sha256: str,
        evaluations: Evaluations,
    ) -> None:
        self.run, self.spec = run, spec
        self._context = context
        self._measuring = Measuring(context, run, spec, evaluations)
        self._spec_data: dict[str, Any] = msgspec.to_builtins(spec)
        self._sha256 = state_sha256
        state = codec.decode(context.store.blobs.read(state_sha256))
        self._budget = PrivacyBudget(context.store.ledgers, run, spec)
        self._learning = MethodState(method, state, admission_of(spec), self._budget.terms)
        self._open: Step | None = None
        self._late = LateDevices(spec.fleet.staleness)
        self._misfits = Misfits(run, spec, context.outgoing)
        self._unfit: dict[str, str] = {}  # devices that the coming step does without, as last logged

    # -- what is known ------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The coming step, or the one that is open."""
        return self._learning.step

    @property
    def method(self) -> Method:
        return self._learning.method

    def task(self) -> Payload:
        """The task of the coming or open step."""
        return self._learning.task()

    @property
    def has_open_step(self) -> bool:
        return self._open is not None

    def unsettled(self) -> list[str]:
        """Devices that the open step still waits for."""
        return [] if self._open is None else self._open.unsettled()

    def may_count(self, run: str, step: int) -> bool:
        """True for a result of the coming or open step, and of earlier ones within the staleness window."""
        return run == self.run and (step == self.step or self._late.counts(step, self.step))

    # -- what devices say ---------------------------------------------------------------

    def on_hello(self, device: str) -> None:
        """A device (re)connected."""
        self._free(device)
        self._misfits.greeted(device)
        if self._open is not None:
            self._open.on_hello(device)

    def on_heartbeat(self, device: str) -> None:
        """A device is alive."""
        self._free(device)
        if self._open is not None:
            self._open.on_heartbeat(device)

    def on_rejected(self, device: str) -> None:
        """The operator wants a device out."""
        if self._open is not None and device in self._open.unsettled():
            self._open.lose(device, "rejected by the operator")
            self._cancel(device, self.step, "rejected by the operator")

    def on_status(self, device: str, status: TaskStatus) -> bool:
        """Progress, or trouble; False where it is not about the open step."""
        if self._open is None or (status.run, status.step) != (self.run, self.step):
            return False
        self._open.on_status(device, status)
        return True

    def on_result_offered(self, device: str, offer: ResultOffer) -> None:
        """A result waits in a device's outbox."""
        if self._open is not None and (offer.run, offer.step) == (self.run, self.step):
            self._open.on_result_offered(device)

    def offer_anew(self, device: str, offer: ResultOffer) -> None:
        """A result answers another task than the open step's: its device is to do this one."""
        if self._open is not None and (offer.run, offer.step) == (self.run, self.step):
            self._open.offer_anew(device)

    def count(self, device: str, offer: ResultOffer, path: Path) -> None:
        """Fold a result into the open step and make it durable. Raises ``ResultError`` where it does not fit."""
        self._require().count(device, offer, path)
        if offer.step != self.step:
            self._late.free(device)

    def refuse(self, device: str, offer: ResultOffer, reason: str) -> None:
        """A result is invalid: it will not be looked at again."""
        if self._open is not None and offer.step == self.step:
            self._open.refuse(device, reason)
        else:
            self._context.store.tasks.refuse(device, offer.run, offer.step, reason)
            self._late.free(device)

    # -- time ---------------------------------------------------------------------------

    def resume(self) -> None:
        """After a restart: take up the step that was open, and measure the states where that was cut short."""
        self._resume_step()
        self._measuring.resume(self._learning, self._sha256)

    def tick(self, now: float) -> RunEnd | None:
        """Everything that is due; how the run ends, where it does."""
        if self._open is None:
            return self._go_on(now)
        self._open.tick(now)
        match self._open.outcome(now):
            case StepEvent.ENOUGH:
                self._close_step(self._open)
                return self._go_on(self._context.clock())
            case StepEvent.SHORT:
                return self._retry(self._open)
            case _:
                return None

    def flush(self) -> None:
        """Write progress."""
        if self._open is not None:
            self._open.flush()

    # -- steps --------------------------------------------------------------------------

    def _go_on(self, now: float) -> RunEnd | None:
        """Open the next step, or finish the run once its last state is measured."""
        spent = "" if self._learning.finished else self._budget.spent_out()
        if not self._learning.finished and not spent:
            self._open_next(now)
        elif self._measuring.finished(self._learning):
            return RunEnd(RunEvent.STOP, spent) if spent else RunEnd(RunEvent.COMPLETE)
        return None

    def _open_next(self, now: float) -> None:
        """Open the coming step once enough devices are there."""
        fleet, registry = self.spec.fleet, self._context.registry
        for device, step in self._late.drop_too_late(self.step).items():
            self._cancel(device, step, "too many steps ago")
        if registry.awaits():
            return
        if (members := self._learning.members) is not None:
            self._open_step(everyone(member for member in members if registry.accepted(member)), now).tick(now)
            self.collect_garbage()
            return
        candidates = [row for row in registry.candidates() if row.device not in self._late]
        if len(candidates) < max(fleet.min_results, fleet.min_devices if self.step == 0 else 1):
            return
        choice = self._choose(candidates, fleet.cohort)
        if len(choice.cohort) < fleet.min_results:
            self._wait_for_fitness(choice)
            return
        self._unfit = {}
        self._open_step(choice, now).tick(now)
        self.collect_garbage()

    def _choose(self, candidates: Sequence[DeviceRow], size: int) -> Choice:
        """Who takes part, with which parts."""
        misfits = self._misfits.among(candidates)
        return choose(self._context.store.tasks, self, candidates, size=size, misfits=misfits)

    def _wait_for_fitness(self, choice: Choice) -> None:
        """Too few of those who are there can take part: said once, and again when the reasons change."""
        if choice.left_out.keys() != self._unfit.keys():
            log.warning("run %s: step %d waits for devices: %s", self.run, self.step, choice.left_out)
            self._context.store.note_waiting(self.run, self.step, choice)
        self._unfit = choice.left_out

    def _open_step(self, choice: Choice, now: float) -> Step:
        """Start the coming step with the chosen devices: on disk first."""
        blobs, round_, cohort = self._task_blobs(), self._learning.round, choice.cohort
        self._context.store.open_step(self.run, self.step, blobs.stage, round_, self._sha256, choice)
        fold = self._learning.begin_fold(self._stored)
        step = self._begin(blobs, fold, [StepTask.given(share) for share in cohort], opened_at=now)
        text = "run %s: step %d (%s, round %d) opens for %d devices"
        log.info(text, self.run, self.step, blobs.stage, round_, len(cohort))
        return step

    def _resume_step(self) -> None:
        """The step that was open when the coordinator stopped: its stored results are folded again."""
        store = self._context.store
        for step, sha256 in sorted(
            store.steps.base_states(self.run, self.step - self.spec.fleet.staleness).items()
        ):
            if step < self.step and store.blobs.is_sound(sha256):
                self._learning.recall(codec.decode(store.blobs.read(sha256)))
        opened = store.steps.opened(self.run)
        if opened is None:
            return
        fold = self._learning.begin_fold(self._stored)  # first: a damaged result makes its task a new one
        tasks = [StepTask.resumed(row) for row in store.tasks.of(self.run) if row.step == self.step]
        opened_at = self._context.clock() - max(0.0, store.now() - opened.started)
        blobs = self._task_blobs()
        blobs.offer_all([task.device for task in tasks])
        resumed = self._begin(blobs, fold, tasks, opened_at=opened_at, attempt=opened.attempt)
        log.info("run %s: step %d resumes with %d results", self.run, self.step, resumed.results)

    def _close_step(self, step: Step) -> None:
        """Finish the step, then tell those who are late, then measure the new state."""
        waiting = step.unsettled()
        self._finish_step(step)
        if self.spec.fleet.staleness:
            self._late.add(waiting, step.step)
        else:
            for device in waiting:
                self._cancel(device, step.step, "the step is over")
            self._context.downloads.forget(self.run, step.step)
        self._measuring.add(self._learning, step.step, self._sha256)

    def _finish_step(self, step: Step) -> None:
        """Aggregate, store the new state, close the step. Raises what the method raises."""
        store = self._context.store
        step.flush()
        state = step.aggregate()
        sha256 = store.blobs.put(codec.encode(state, precision="fp32"))
        times = [entry.train_s for entry in store.tasks.counted(self.run, step.step) if entry.step == step.step]
        duration_s, after = step.duration_s(), self._learning.after(state)
        summary = StepSummary(
            duration_s=duration_s,
            overhead_s=max(0.0, duration_s - max(times, default=0.0)),
            results=step.results,
            lost=step.lost(),
            loss=after.metric("loss"),
            accuracy=after.metric("accuracy"),
            density=after.density(),
        )
        self._budget.released(step.step, sha256)
        store.finish_step(self.run, step.step, sha256, after.round, summary, step.excluded)
        step.tell_excluded()
        self._learning, self._sha256, self._open = after, sha256, None
        log.info(
            "run %s: step %d done: %d results, %d lost, %.2f s (%.2f s overhead)",
            self.run,
            step.step,
            summary.results,
            len(summary.lost),
            duration_s,
            summary.overhead_s,
        )

    def _retry(self, step: Step) -> RunEnd | None:
        """Too few results: try again with the same state, or say why that is hopeless."""
        registry, fleet = self._context.registry, self.spec.fleet
        step.exclude()
        busy = {*step.devices, *self._late}
        others = [row for row in registry.candidates() if row.device not in busy]
        room = fleet.cohort - len(step.unsettled()) - step.results if fleet.cohort else len(others)
        fresh = self._choose(others, room) if room > 0 else Choice(())
        hopeful, shortage = step.hopeful(), f"step {self.step}: {step.shortage()}"
        if not fresh.cohort and not hopeful:
            return RunEnd(RunEvent.FAIL, f"{shortage}, and no device is left")
        if not fresh.cohort and not any(registry.online(device) for device in hopeful):
            step.wait_again()  # everyone is away: that is no attempt
        elif step.attempt >= self._context.config.step_attempts:
            return RunEnd(RunEvent.FAIL, f"{shortage} in {step.attempt} tries")
        else:
            log.warning("run %s: %s; trying again", self.run, shortage)
            step.retry(fresh)
        return None

    # -- inside -------------------------------------------------------------------------

    def _begin(
        self, blobs: TaskBlobs, fold: StepFold, tasks: list[StepTask], *, opened_at: float, attempt: int = 1
    ) -> Step:
        offers = StepOffers(self._context, self.run, self.step, self._sha256, self._spec_data, blobs)
        self._open = Step(
            self._context,
            self.run,
            self.step,
            self._terms(),
            offers,
            fold,
            tasks,
            opened_at=opened_at,
            attempt=attempt,
        )
        return self._open

    def _terms(self) -> FleetSettings:
        """Of the step: one that is for certain devices closes with those that answer, and what that means is known
        to its method alone."""
        fleet = self.spec.fleet
        return fleet if self._learning.members is None else msgspec.structs.replace(fleet, min_results=0)

    def _stored(self) -> Iterator[StoredResult]:
        """The results of the open step that are on disk; one that is damaged there is asked for again."""
        store = self._context.store
        for entry in store.tasks.counted(self.run, self.step):
            try:
                blob = store.blobs.read(entry.sha256)
            except DamagedBlob as error:
                log.warning("result of %s for step %d is asked for again: %s", entry.device, entry.step, error)
                store.tasks.uncount(self.run, entry)
                if self._open is not None and entry.step == self.step:
                    self._open.uncounted(entry.device)
            else:
                yield entry.step, entry.device, blob

    def _task_blobs(self) -> TaskBlobs:
        context = self._context
        return TaskBlobs(
            self.task(), self.spec.wire, context.store.blobs, context.offered, self._learning.addressed
        )

    def _free(self, device: str) -> None:
        """A device that is no longer at an earlier step may take part again."""
        if self._context.registry.at(device) is None:
            self._late.free(device)

    def _cancel(self, device: str, step: int, reason: str) -> None:
        self._context.outgoing.send(device, TaskCancel(self.run, step, reason))

    @property
    def _outcome(self) -> RunOutcome:
        return RunOutcome(self._context.store, self.run, self.spec, self._learning)

    def outcome(self) -> ChosenState | None:
        """Which state is the run's result, by now; None before it has trained."""
        return self._outcome.of(self._sha256) if self._learning.trained else None

    def collect_garbage(self) -> None:
        """Delete blobs that nothing needs any more."""
        offered = self._context.offered
        if self._open is not None:
            offered.keep_only(self._open.blob_digests)
        keep_steps = max(self._context.config.keep_states, self.spec.fleet.staleness + 1)
        needed = [*offered.digests, *self._measuring.digests]
        if self.spec.result == "averaged":
            needed += [state.sha256 for state in self._outcome.window()]
        self._context.store.collect_garbage(keep_steps=keep_steps, keep=needed)

    def _require(self) -> Step:
        if self._open is None:
            raise AssertionError("no step is open")
        return self._open
