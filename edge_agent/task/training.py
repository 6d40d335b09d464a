"""The second half of a task: the worker has it, whether the network is there or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.state_directory import COST_MODEL, MASKS, RELEASES, RESULT, WORK
from tinyfleet.edge_agent.states import AssignmentEvent
from tinyfleet.edge_agent.task.held_runs import HeldRuns
from tinyfleet.edge_agent.task.in_hand import Ending, TaskInHand
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.task.reports import Reports
from tinyfleet.edge_agent.worker.budget import Governor, Stage
from tinyfleet.edge_agent.worker.commands import (
    Declined,
    EndsEarly,
    MaskMissing,
    NearLimit,
    OverBudget,
    Planned,
    StepsDone,
    TaskCommand,
    TaskDone,
    TaskFailed,
    TightenCommand,
    Tightened,
    TrainingBegan,
    Unfit,
)
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.process import Event, Worker
from tinyfleet.edge_agent.worker.slot import WorkerSlot
from tinyfleet.fedcore.files import drop_temporaries, remove
from tinyfleet.fedcore.protocol.chunks import DEFAULT_CHUNK_BYTES, manifest_of
from tinyfleet.fedcore.protocol.messages import ResultOffer, TaskState
from tinyfleet.fedcore.training.levers import Levers

logger = logging.getLogger(__name__)


class Training:
    """Gives one task at a time to the worker in ``slot``, and makes of its events how the task ends."""

    def __init__(
        self,
        device: str,
        config: AgentConfig,
        state: Path,
        *,
        governor: Governor,
        slot: WorkerSlot,
        pauses: Pauses,
        reports: Reports,
        outbox: Outbox,
        clock: Callable[[], float],
    ) -> None:
        self._device = device
        self._engine = config.engine
        self._data = msgspec.to_builtins(config.data)
        self._privacy = msgspec.to_builtins(config.privacy)
        self._releases = state / RELEASES
        self.held = HeldRuns(state / MASKS)
        self._cost_model = state / COST_MODEL
        self._result = state / WORK / RESULT
        self._result.parent.mkdir(parents=True, exist_ok=True)
        self._governor = governor
        self._slot = slot
        self._pauses = pauses
        self._reports = reports
        self._outbox = outbox
        self._clock = clock

    def begin(self, task: TaskInHand, blob: Path) -> Ending | None:
        """The blob is whole: the worker takes the task. How it ends where there can be no worker."""
        offer, limits = task.offer, task.limits
        try:
            masks = self.held.keep(offer.run)
            worker = self._slot.take(offer.run, limits)
        except OSError as error:
            reason = f"its work cannot be started: {error}"
            return Ending(AssignmentEvent.FAILED, TaskState.FAILED, reason)
        self._pauses.begin(worker)
        worker.send(
            TaskCommand(
                device=self._device,
                blob=str(blob),
                result=str(self._result),
                masks=str(masks),
                releases=str(self._releases / masks.name),
                spec=offer.spec,
                data=self._data,
                privacy=self._privacy,
                engine=self._engine,
                threads=limits.threads,
                target_bytes=limits.target_bytes,
                first_way=limits.first_way,
                factor=limits.factor,
                cost_model=str(self._cost_model),
                local_steps=offer.local_steps,
                levers=Levers(activation_keep=offer.activation_keep),
                memory_limit_bytes=limits.memory_limit_bytes,
            )
        )
        self._reports.running(task)
        return None

    def tick(self, task: TaskInHand) -> Ending | None:
        """Mind the board and hear the worker; how the task ends, if it does now."""
        worker = self._slot.worker
        while worker is not None:
            verdict = self._pauses.mind(worker)
            if verdict is not None:
                self._reports.paused(task, verdict.reasons, self._pauses.paused_s)
            event = worker.poll(self._clock())
            if event is None:
                return None
            ending = self._heard(task, worker, event)
            if ending is not None:
                return ending
        return None

    def release(self, *, sound: bool) -> None:
        """The task is over. Only a ``sound`` worker is used again; one in the middle of it is ended."""
        if sound:
            self._slot.rest()
        else:
            self._slot.close()
        remove(self._result)
        drop_temporaries(self._result.parent)  # of a worker that was ended while it wrote

    def forget(self, run: str) -> None:
        """No more of this run: its worker and its masks go."""
        self._slot.close(run)
        self._reports.forget(run)
        self.held.forget(run)

    def _heard(self, task: TaskInHand, worker: Worker, event: Event) -> Ending | None:
        """One event of the worker's; how the task ends, if it does by that."""
        match event:
            case Planned(chosen):
                task.chosen = chosen
                self._reports.planned(task)
            case Tightened(chosen):
                task.chosen = chosen
                self._reports.tightened(task)
                self._governor.tightened(task.spec, chosen.index)
            case TrainingBegan():
                task.stage = Stage.TRAINING
            case NearLimit(rss_bytes):
                # Ask for less before the hard limit ends the task; what is being loaded cannot get smaller.
                if task.stage is Stage.TRAINING:
                    logger.info("run %s step %d: %d resident; less from the next step on", *task.key, rss_bytes)
                    worker.send(TightenCommand())
            case EndsEarly():
                logger.warning("run %s step %d: no way takes less; it ends with what is done", *task.key)
            case StepsDone(done, total, loss):
                self._reports.progress(task, done, total, loss, self._pauses.paused_s)
            case TaskDone():
                return self._done(task, event)
            case Declined(reason):
                self._governor.refused(task.spec, task.limits)
                return self._ending(AssignmentEvent.FAILED, TaskState.DECLINED, reason, sound=True)
            case Unfit(reason=reason):
                return self._ending(AssignmentEvent.FAILED, TaskState.UNFIT, reason, sound=True)
            case OverBudget(reason):
                return self._over_budget(task, worker, reason)
            case MaskMissing(reason=reason):
                return self._ending(AssignmentEvent.NEEDS_MASK, TaskState.NEEDS_MASK, reason, sound=True)
            case TaskFailed(kind, reason):
                return self._ending(AssignmentEvent.FAILED, TaskState.FAILED, f"{kind}: {reason}")
            case _:
                logger.debug("a %s is not of a task", type(event).__name__)
        return None

    def _done(self, task: TaskInHand, done: TaskDone) -> Ending:
        """The result goes into the outbox, and is announced from there."""
        try:
            offer = ResultOffer(
                *task.key,
                manifest_of(self._result, DEFAULT_CHUNK_BYTES),
                train_s=max(0.0, done.train_s - self._pauses.paused_s),
                task_s=self._clock() - task.began,
                peak_rss_bytes=done.peak_rss_bytes,
                engine=done.engine,
                base=task.offer.base,
                micro_batch=task.chosen.way.levers.micro_batch,
                levers=task.chosen.degrading,
            )
            self._outbox.add(offer, self._result)
        except OSError as error:
            reason = f"the result cannot be kept on disk: {error}"
            return self._ending(AssignmentEvent.FAILED, TaskState.FAILED, reason)
        self._governor.finished(task.spec, task.limits, task.chosen, offer.peak_rss_bytes)
        return Ending(
            AssignmentEvent.FINISHED,
            TaskState.FINISHED,
            peak_rss_bytes=offer.peak_rss_bytes,
            paused_s=self._pauses.paused_s,
            sound=True,
            result=offer,
        )

    def _over_budget(self, task: TaskInHand, worker: Worker, reason: str) -> Ending:
        """Learn from it, and say what comes next. The worker's memory goes back with it."""
        following = self._governor.over_budget(task.spec, task.limits, task.chosen, task.stage)
        where = f"while {task.stage.value}, {task.chosen.way}"
        return Ending(
            AssignmentEvent.OVER_BUDGET,
            TaskState.OVER_BUDGET,
            f"{reason} ({where}); {following.refusal or 'the next try takes less'}",
            peak_rss_bytes=worker.peak_rss_bytes,
            paused_s=self._pauses.paused_s,
        )

    def _ending(self, event: AssignmentEvent, state: TaskState, reason: str, *, sound: bool = False) -> Ending:
        return Ending(event, state, reason, paused_s=self._pauses.paused_s, sound=sound)
