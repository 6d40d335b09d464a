"""One step while it is open: offers its task, follows its devices, knows when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tinyfleet.coordinator.run.aggregate import StepFold
from tinyfleet.coordinator.run.context import Context
from tinyfleet.coordinator.selection.policy import Choice
from tinyfleet.coordinator.states import SETTLED_TASK_PHASES, TASK_TABLE, StepEvent, TaskEvent, TaskPhase, advance
from tinyfleet.coordinator.store.records import TaskNote
from tinyfleet.coordinator.wire.task_blobs import TaskBlobs
from tinyfleet.fedcore.protocol.messages import TaskOffer, TaskState, TaskStatus
from tinyfleet.fedcore.run_spec import FleetSettings

log = logging.getLogger(__name__)

IDLE_BEATS = 3  # heartbeats without a task, in a row, of a device that should be at one: it lost it
MAX_DECLINE_PAUSE_S = 10.0

_EVENTS = {
    TaskState.ACCEPTED: TaskEvent.ACCEPT,
    TaskState.RUNNING: TaskEvent.PROGRESS,
    TaskState.FINISHED: TaskEvent.RESULT,
}


@dataclass(slots=True)
class LiveTask:
    """One device's task of the open step."""

    device: str
    phase: TaskPhase = TaskPhase.OFFERED
    reason: str = ""
    retries: int = 0
    micro_batch: int = 0
    peak_rss_bytes: int = 0
    done: int = 0
    total: int = 0
    steps: int = 0  # optimiser steps that it is given; 0: the whole job
    keep: float = 1.0
    began_at: float | None = None  # when the offer of its present try went out first; None: before a restart
    sent_at: float | None = None  # when its offer went out; None: it is due
    due_at: float = 0.0
    with_mask: bool = False  # the device said that it lacks the mask
    paused_s: float = 0.0  # of the present try, as its board said last
    paused_at: float | None = None  # when it said that it pauses; None: it does not
    forgiven_s: float = 0.0  # of its pauses: an earlier deadline was put off by them
    noted: bool = True  # the store knows all this

    def pauses_s(self, now: float) -> float:
        """Seconds of the present try in which its board held it back, and for which no deadline waited yet."""
        now_s = 0.0 if self.paused_at is None else now - self.paused_at
        return max(0.0, self.paused_s + now_s - self.forgiven_s)

    @property
    def settled(self) -> bool:
        return self.phase in SETTLED_TASK_PHASES

    def note(self) -> TaskNote:
        """What the store keeps of it."""
        return TaskNote(
            self.device,
            self.phase,
            self.reason,
            self.retries,
            self.micro_batch,
            self.peak_rss_bytes,
            self.done,
            self.total,
        )


class OpenStep:
    """The live tasks of one step. The fold counts results; the conductor opens and closes steps."""

    def __init__(
        self,
        context: Context,
        run: str,
        step: int,
        spec: dict[str, Any],
        fleet: FleetSettings,
        blobs: TaskBlobs,
        fold: StepFold,
        tasks: Iterable[LiveTask],
        *,
        opened_at: float,
        attempt: int = 1,
    ) -> None:
        self.run, self.step, self.attempt = run, step, attempt
        self.blobs, self.fold = blobs, fold
        self.tasks = {task.device: task for task in tasks}
        self.opened_at = opened_at
        self._context = context
        self._spec = spec
        self._fleet = fleet
        self._deadline_at = context.clock() + fleet.deadline_s

    # -- what devices say ---------------------------------------------------------------

    def on_status(self, device: str, status: TaskStatus) -> None:
        """Progress, or trouble."""
        task = self.tasks.get(device)
        if task is None:
            return
        task.micro_batch = status.micro_batch or task.micro_batch
        task.peak_rss_bytes = max(task.peak_rss_bytes, status.peak_rss_bytes)
        match status.state:
            case TaskState.PAUSED:
                self._holds_mask(device)
                task.reason = f"paused: {status.reason}"
                task.paused_s, task.paused_at = status.paused_s, self._context.clock()
                self._advance(task, TaskEvent.PROGRESS)
            case TaskState.ACCEPTED | TaskState.RUNNING | TaskState.FINISHED:
                resumes = task.paused_at is not None
                task.paused_s, task.paused_at = status.paused_s, None
                if resumes:
                    task.reason = ""
                    self._tell_put_off(device)
                if status.state is not TaskState.ACCEPTED:
                    self._holds_mask(device)
                    task.done, task.total = status.done or task.done, status.total or task.total
                self._advance(task, _EVENTS[status.state])
            case TaskState.NEEDS_MASK:
                self._needs_mask(task)
            case TaskState.OVER_BUDGET | TaskState.FAILED | TaskState.DECLINED:
                self._stumble(
                    task, f"{status.state.value}: {status.reason}", pause=status.state is TaskState.DECLINED
                )

    def on_hello(self, device: str) -> None:
        """The device is back, perhaps after a restart: offer again what it does not have."""
        task = self.tasks.get(device)
        if task is not None and (task.phase is TaskPhase.LOST or not task.settled):
            self._offer_again(task)
            self._at_it(task)

    def on_heartbeat(self, device: str) -> None:
        """Offer again what a device has lost, or what it never received."""
        task, known = self.tasks.get(device), self._context.registry.get(device)
        if task is None or known is None:
            return
        if task.phase is TaskPhase.LOST:
            self._offer_again(task)
        if task.phase is TaskPhase.OFFERED:
            self._at_it(task)
        elif not task.settled and known.idle_beats >= IDLE_BEATS:
            known.idle_beats = 0
            self._offer_again(task)

    def on_result_offered(self, device: str) -> None:
        """The result is in the device's outbox."""
        task = self.tasks.get(device)
        if task is not None:
            self._holds_mask(device)
            self._advance(task, TaskEvent.RESULT)

    def settle(self, device: str, event: TaskEvent, reason: str = "") -> None:
        """COUNT, REFUSE or LOSE a task. A counted one is in the store already."""
        task = self.tasks.get(device)
        if task is None:
            return
        task.reason = reason
        if event is not TaskEvent.LOSE:
            self._advance(task, TaskEvent.RESULT)  # it is here, whatever the device last said
        self._advance(task, event)
        if event is not TaskEvent.COUNT:
            self._save(task)

    # -- time ---------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Send the offers that are due, give up on devices that stay away."""
        registry = self._context.registry
        for task in self.tasks.values():
            if task.settled:
                continue
            if registry.online(task.device):
                if task.phase is TaskPhase.OFFERED:
                    self._send_if_due(task, now)
                continue
            known = registry.get(task.device)
            if known is None or not registry.accepted(task.device):
                self.settle(task.device, TaskEvent.LOSE, "rejected by the operator")
            elif not known.awaited and now - known.offline_at >= self._fleet.grace_s:
                self.settle(task.device, TaskEvent.LOSE, "offline")

    def outcome(self, now: float) -> StepEvent | None:
        """ENOUGH: close it. SHORT: try again. None: wait."""
        enough = self.fold.results >= self._fleet.min_results
        if now >= self._deadline_at + self._put_off_s(now):
            return StepEvent.ENOUGH if enough else StepEvent.SHORT
        if not all(task.settled for task in self.tasks.values()):
            return None
        if enough:
            return StepEvent.ENOUGH
        may_return = any(task.phase is TaskPhase.LOST for task in self.tasks.values())
        return None if may_return else StepEvent.SHORT

    def _put_off_s(self, now: float) -> float:
        """What the deadline is put off by: the longest pause of those it waits for, at most as long as itself."""
        held = (task.pauses_s(now) for task in self.tasks.values() if not task.settled)
        return min(max(held, default=0.0), self._fleet.deadline_s)

    def _tell_put_off(self, device: str) -> None:
        """The device goes on after a pause: what is left to it."""
        now = self._context.clock()
        put_off_s = self._put_off_s(now)
        left_s = self._deadline_at + put_off_s - now
        text = "%s, step %d: goes on after a pause; the deadline is put off by %.1f s, %.1f s are left"
        log.info(text, device, self.step, put_off_s, left_s)

    def retry(self, fresh: Choice, attempt: int) -> None:
        """Offer the same task once more: to ``fresh`` devices, and to lost ones that are back."""
        back = [
            task.device
            for task in self.tasks.values()
            if task.phase is TaskPhase.LOST and self._context.registry.online(task.device)
        ]
        self.attempt = attempt
        self._context.ledger.extend_step(self.run, self.step, attempt, back, fresh)
        for device in back:
            self._offer_again(self.tasks[device])
        for plan in fresh.cohort:
            self.tasks[plan.device] = LiveTask(plan.device, steps=plan.steps, keep=plan.keep)
        self.wait_again()

    def wall_s(self, device: str) -> float | None:
        """Seconds since the device's offer left, where that was in this process."""
        task = self.tasks.get(device)
        return None if task is None or task.began_at is None else self._context.clock() - task.began_at

    def wait_again(self) -> None:
        """Start the deadline anew."""
        for task in self.tasks.values():
            task.forgiven_s += task.pauses_s(self._context.clock())
        self._deadline_at = self._context.clock() + self._fleet.deadline_s

    def lost(self) -> list[dict[str, str]]:
        """Each task that ends without a counted result, and why."""
        return [
            {"device": task.device, "reason": task.reason or "deadline"}
            for task in self.tasks.values()
            if task.phase is not TaskPhase.STORED
        ]

    def shortage(self) -> str:
        """How many results there are, how many are needed, and what became of the rest."""
        reasons = "; ".join(f"{entry['device']}: {entry['reason']}" for entry in self.lost()[:5])
        return f"{self.fold.results} of {self._fleet.min_results} needed results ({reasons})"

    def unsettled(self) -> list[str]:
        """Devices that the step still waits for."""
        return [task.device for task in self.tasks.values() if not task.settled]

    def flush(self) -> None:
        """Write progress that the store does not know yet."""
        notes = [task for task in self.tasks.values() if not task.noted]
        if notes:
            self._context.ledger.note_tasks(self.run, self.step, [task.note() for task in notes])
        for task in notes:
            task.noted = True

    # -- inside -------------------------------------------------------------------------

    def _advance(self, task: LiveTask, event: TaskEvent) -> None:
        task.phase = advance(TASK_TABLE, task.phase, event)
        task.noted = False

    def _save(self, task: LiveTask) -> None:
        self._context.ledger.save_task(self.run, self.step, task.note())
        task.noted = True

    def _holds_mask(self, device: str) -> None:
        """Only a device that has decoded the task can be at it, or have its result."""
        known = self._context.registry.get(device)
        if known is not None and self.blobs.mask_digest is not None:
            known.held.add(self.blobs.mask_digest)

    def _at_it(self, task: LiveTask) -> None:
        """No offer is needed where the device says that it is at this very task, or has its result."""
        known = self._context.registry.get(task.device)
        if known is not None and known.task == (self.run, self.step):
            self._advance(task, TaskEvent.PROGRESS)
            task.sent_at = self._context.clock()

    def _needs_mask(self, task: LiveTask) -> None:
        known = self._context.registry.get(task.device)
        if known is not None and self.blobs.mask_digest is not None:
            known.held.discard(self.blobs.mask_digest)
        if task.with_mask:
            self._stumble(task, "needs_mask: the device did not find the mask in the blob that carries it")
            return
        task.with_mask = True
        self._offer_again(task)

    def _offer_again(self, task: LiveTask) -> None:
        if task.phase is TaskPhase.LOST:
            task.reason = ""
        self._advance(task, TaskEvent.OFFER)
        task.sent_at, task.due_at = None, 0.0
        task.paused_s, task.paused_at, task.forgiven_s = 0.0, None, 0.0

    def _stumble(self, task: LiveTask, reason: str, *, pause: bool = False) -> None:
        if task.settled or (task.phase is TaskPhase.OFFERED and task.sent_at is None):
            return  # a duplicate: the next try is due already
        task.reason = reason
        log.info("%s, step %d: %s", task.device, self.step, reason)
        if task.retries >= self._fleet.max_retries:
            self._advance(task, TaskEvent.GIVE_UP)
        else:
            task.retries += 1
            self._advance(task, TaskEvent.STUMBLE)
            pause_s = min(0.25 * 2.0**task.retries, MAX_DECLINE_PAUSE_S) if pause else 0.0
            task.sent_at, task.due_at = None, self._context.clock() + pause_s
        self._save(task)

    def _send_if_due(self, task: LiveTask, now: float) -> None:
        if task.sent_at is None:
            due = now >= task.due_at
        else:
            # Sent, and nothing heard: unless it says that it is at this task, it never saw the offer.
            silent = now - task.sent_at >= self._context.config.reoffer_s
            known = self._context.registry.get(task.device)
            due = silent and (known is None or known.task != (self.run, self.step))
        if due and self._send(task, now):
            if task.sent_at is None:
                task.began_at = now
            task.sent_at = now

    def _send(self, task: LiveTask, now: float) -> bool:
        known = self._context.registry.get(task.device)
        held = known is not None and self.blobs.mask_digest in known.held
        offer = TaskOffer(
            run=self.run,
            step=self.step,
            stage=self.blobs.stage,
            lease_s=max(0.0, self._deadline_at - now),
            manifest=self.blobs.manifest(with_mask=task.with_mask or not held),
            spec=self._spec,
            steps=task.steps,
            keep=task.keep,
        )
        return self._context.post.send(task.device, offer)
