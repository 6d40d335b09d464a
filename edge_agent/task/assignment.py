"""The agent's one task, from the offer to the result in the outbox: fetch, train, keep.

Driven by ``Assignments.tick`` and by the messages that the supervisor hands in. Whether the
network is there does not matter to anything but the fetching.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.states import TASK_TABLE, Task, TaskEvent
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Chosen, Governor, Stage, TaskLimits
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.process import Worker
from tinyfleet.edge_agent.worker.slot import StartWorker, WorkerSlot
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.protocol.chunks import DEFAULT_CHUNK_BYTES, manifest_of
from tinyfleet.fedcore.protocol.messages import Message, ResultOffer, TaskOffer, TaskState, TaskStatus
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert
from tinyfleet.fedcore.training.levers import Levers

logger = logging.getLogger(__name__)

COST_MODEL = "cost_model.toml"  # in the state directory: what was measured of the engine on this board
PROGRESS_INTERVAL_S = 1.0
_REASON_LIMIT = 2000  # characters, of messages.Text


@dataclass(slots=True)
class _Current:
    """The task in hand. ``worker`` is set once it has the task."""

    offer: TaskOffer
    spec: RunSpec
    limits: TaskLimits
    began: float
    status: TaskStatus
    status_sent: float
    stage: Stage = Stage.LOADING
    chosen: Chosen = field(default_factory=Chosen)
    worker: Worker | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.offer.run, self.offer.step

    def makes_way_for(self, offer: TaskOffer) -> bool:
        """True where ``offer`` is the same task sent anew, or so much later that this result would be too stale."""
        if offer.run != self.offer.run:
            return False
        if offer.step == self.offer.step:
            return offer.manifest != self.offer.manifest
        return offer.step - self.offer.step > self.spec.fleet.staleness


class Assignments:
    """Follows ``TASK_TABLE``. ``say`` publishes if it can; every status may get lost without harm."""

    def __init__(
        self,
        device: str,
        config: AgentConfig,
        state: Path,
        *,
        governor: Governor,
        inbox: Inbox,
        outbox: Outbox,
        start_worker: StartWorker,
        pauses: Pauses,
        say: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        self.state = Task.IDLE
        self._device = device
        self._config = config
        self._masks = state / "masks"
        self._cost_model = state / COST_MODEL
        self._result = state / "work" / "result.blob"
        self._result.parent.mkdir(parents=True, exist_ok=True)
        self._governor = governor
        self._inbox = inbox
        self._outbox = outbox
        self._slot = WorkerSlot(start_worker, clock)
        self._pauses = pauses
        self._say = say
        self._clock = clock
        self._current: _Current | None = None
        self._said: set[tuple[str, str]] = set()  # runs, and the ways that the log has of each

    @property
    def key(self) -> tuple[str, int] | None:
        """(run, step) under way, or None."""
        return None if self._current is None else self._current.key

    @property
    def worker_rss_bytes(self) -> int:
        return self._slot.rss_bytes

    @property
    def patience_s(self) -> float:
        """How long the worker may go without ``tick``."""
        return self._slot.patience_s

    # -- what the coordinator says --------------------------------------------------------

    def offered(self, offer: TaskOffer) -> None:
        """Take a task, or say why not. Offers that are repeated are answered with where their task stands."""
        waiting = self._outbox.get(offer.run, offer.step)
        current = self._current
        if waiting is not None:
            self._say(waiting)
        elif current is None or current.makes_way_for(offer):
            self._take(offer)
        elif current.key == (offer.run, offer.step):
            self._say(current.status)
        else:
            self.decline(offer, f"busy with run {current.offer.run} step {current.offer.step}")

    def decline(self, offer: TaskOffer, reason: str) -> None:
        """Leave a task to others."""
        logger.warning("run %s step %d: declined (%s)", offer.run, offer.step, reason)
        self._say(TaskStatus(offer.run, offer.step, TaskState.DECLINED, reason[:_REASON_LIMIT]))

    def chunk(self, payload: bytes) -> None:
        """A chunk message. Raises ``CodecError``."""
        if self.state is Task.FETCHING:
            try:
                self._inbox.accept(payload, self._clock())
            except OSError as error:
                self._end(TaskEvent.FETCH_FAILED, TaskState.FAILED, f"the task's blob cannot be stored: {error}")

    def cancelled(self, run: str, step: int, reason: str) -> None:
        """Stop this task and drop its result."""
        self._outbox.drop(run, step)
        if self.key == (run, step):
            logger.info("run %s step %d: cancelled (%s)", run, step, reason or "no reason given")
            self._abandon()

    def ended(self, run: str) -> None:
        """No more of this run: its task, worker and masks go. Results in the outbox stay for a verdict."""
        if self._current is not None and self._current.offer.run == run:
            self.cancelled(*self._current.key, "the run has ended")
        self._slot.close(run)
        self._said = {said for said in self._said if said[0] != run}
        shutil.rmtree(self._masks_of(run), ignore_errors=True)

    def reconnected(self) -> None:
        """Ask for what is missing at once."""
        self._inbox.ask_again()

    def stop(self) -> None:
        """The agent stops: the task is lost, what is on disk stays."""
        self._abandon()
        self._slot.close()

    # -- what time brings -----------------------------------------------------------------

    def tick(self) -> None:
        """Move on whatever can move on now. Never blocks for long."""
        if self.state is Task.FETCHING:
            self._fetch()
        elif self.state is Task.TRAINING:
            self._train()
        else:
            self._slot.mind()

    # -- fetching -------------------------------------------------------------------------

    def _take(self, offer: TaskOffer) -> None:
        try:
            spec = convert(offer.spec, RunSpec, "spec of the offer")
            limits = self._governor.limits(spec, self._slot.rss_bytes)
            if limits.refusal:
                raise ConfigError(limits.refusal)
            self._abandon()
            self._inbox.open(offer.manifest)
        except (ConfigError, CodecError, OSError) as error:
            self.decline(offer, str(error))
            return
        self._follow(TaskEvent.OFFERED)
        logger.info("run %s step %d: accepted, %d bytes to fetch", offer.run, offer.step, offer.manifest.size)
        now = self._clock()
        status = TaskStatus(offer.run, offer.step, TaskState.ACCEPTED)
        self._current = _Current(offer, spec, limits, began=now, status=status, status_sent=now)
        self._say(status)
        self.tick()

    def _fetch(self) -> None:
        current = self._required()
        if self._clock() - current.began > current.offer.lease_s:
            self._end(
                TaskEvent.FETCH_FAILED, TaskState.FAILED, "the lease ran out before the task's blob had arrived"
            )
            return
        try:
            blob = self._inbox.finished()
        except CodecError as error:
            logger.warning("blob of run %s step %d: %s; fetching it again", *current.key, error)
            self._reopen(current)
            return
        except OSError as error:
            self._end(TaskEvent.FETCH_FAILED, TaskState.FAILED, f"the task's blob cannot be kept: {error}")
            return
        if blob is not None:
            self._follow(TaskEvent.FETCHED)
            self._begin_training(current, blob)
        elif (request := self._inbox.due(self._clock())) is not None:
            self._say(request)

    def _reopen(self, current: _Current) -> None:
        try:
            self._inbox.open(current.offer.manifest)
        except (CodecError, OSError) as error:
            self._end(TaskEvent.FETCH_FAILED, TaskState.FAILED, str(error))

    # -- training -------------------------------------------------------------------------

    def _begin_training(self, current: _Current, blob: Path) -> None:
        offer, limits = current.offer, current.limits
        try:
            worker = self._slot.take(offer.run, limits)
        except OSError as error:
            self._end(TaskEvent.FAILED, TaskState.FAILED, f"the worker cannot be started: {error}")
            return
        current.worker = worker
        self._pauses.begin(worker)
        worker.send(
            {
                "cmd": "task",
                "device": self._device,
                "blob": str(blob),
                "result": str(self._result),
                "masks": str(self._masks_of(offer.run)),
                "spec": offer.spec,
                "data": msgspec.to_builtins(self._config.data),
                "engine": self._config.engine,
                "threads": limits.threads,
                "target_bytes": limits.target_bytes,
                "first_way": limits.first_way,
                "factor": limits.factor,
                "cost_model": str(self._cost_model),
                "steps": offer.local_steps,
                "levers": msgspec.to_builtins(Levers(activation_keep=offer.activation_keep)),
                "memory_limit_bytes": limits.memory_limit_bytes,
            }
        )
        self._progress(TaskStatus(offer.run, offer.step, TaskState.RUNNING), now=True)

    def _train(self) -> None:
        while self.state is Task.TRAINING:
            current = self._required()
            if current.worker is None:
                return
            self._mind_pauses(current, current.worker)
            event = current.worker.poll(self._clock())
            if event is None:
                return
            self._worker_said(current, event)

    def _worker_said(self, current: _Current, event: dict[str, Any]) -> None:
        reason = str(event.get("reason", ""))
        match event.get("event"):
            case "planned" | "tightened" as what:
                self._levers(current, event, tightened=what == "tightened")
            case "near_limit":
                self._near_limit(current, event)
            case "ending":
                logger.warning("run %s step %d: no way takes less; it ends with what is done", *current.key)
            case "declined":
                self._governor.refused(current.spec, current.limits)
                self._end(TaskEvent.FAILED, TaskState.DECLINED, reason, sound=True)
            case "unavailable":
                self._end(TaskEvent.FAILED, TaskState.DECLINED, reason, sound=True)
            case "training":
                current.stage = Stage.TRAINING
            case "progress":
                self._progress(
                    TaskStatus(
                        *current.key,
                        TaskState.RUNNING,
                        local_steps_done=int(event["done"]),
                        local_steps_total=int(event["total"]),
                        loss=float(event["loss"]),
                        micro_batch=current.chosen.way.levers.micro_batch,
                        levers=current.chosen.degrading,
                        paused_s=self._pauses.paused_s,
                    )
                )
            case "done":
                self._keep_result(current, event)
            case "over_budget":
                self._over_budget(current, reason)
            case "needs_mask":
                self._end(TaskEvent.NEEDS_MASK, TaskState.NEEDS_MASK, reason, sound=True)
            case "failed":
                self._end(TaskEvent.FAILED, TaskState.FAILED, f"{event.get('kind', 'error')}: {reason}")
            case other:
                logger.debug("worker event %r is unknown", other)

    def _levers(self, current: _Current, event: dict[str, Any], *, tightened: bool) -> None:
        """The worker has planned its task, or goes on with less. Said once a run where nothing changes."""
        current.chosen = msgspec.convert(event, Chosen)
        said = (current.offer.run, str(current.chosen.way))
        level = logging.DEBUG if said in self._said and not tightened else logging.INFO
        why = ", for this board has no memory for more" if current.chosen.degrading else ""
        logger.log(level, "run %s step %d: %s%s", *current.key, current.chosen.way, why)
        self._said.add(said)
        if tightened:
            self._governor.tightened(current.spec, current.chosen.index)

    def _near_limit(self, current: _Current, event: dict[str, Any]) -> None:
        """Soft limit: ask for less before the hard limit ends the task."""
        if current.stage is Stage.TRAINING and current.worker is not None:
            logger.info("run %s step %d: %s resident; less from the next step on", *current.key, event["rss_bytes"])
            current.worker.send({"cmd": "tighten"})

    def _mind_pauses(self, current: _Current, worker: Worker) -> None:
        verdict = self._pauses.mind(worker)
        if verdict is not None:
            state = TaskState.PAUSED if verdict.paused else TaskState.RUNNING
            reason = "; ".join(verdict.reasons)[:_REASON_LIMIT]
            logger.info("run %s step %d: %s%s", *current.key, state.value, f" ({reason})" if reason else "")
            before = current.status
            changed = msgspec.structs.replace(before, state=state, reason=reason, paused_s=self._pauses.paused_s)
            self._progress(changed, now=True)

    def _progress(self, status: TaskStatus, *, now: bool = False) -> None:
        """Forward at most one a second; remember the last for whoever asks."""
        current, clock = self._required(), self._clock()
        current.status = status
        if now or clock - current.status_sent >= PROGRESS_INTERVAL_S:
            current.status_sent = clock
            self._say(status)

    def _keep_result(self, current: _Current, event: dict[str, Any]) -> None:
        """The result goes into the outbox, and is announced from there."""
        try:
            offer = ResultOffer(
                *current.key,
                manifest_of(self._result, DEFAULT_CHUNK_BYTES),
                train_s=max(0.0, float(event["train_s"]) - self._pauses.paused_s),
                task_s=self._clock() - current.began,
                peak_rss_bytes=int(event["peak_rss_bytes"]),
                engine=str(event["engine"]),
                micro_batch=current.chosen.way.levers.micro_batch,
                levers=current.chosen.degrading,
            )
            self._outbox.add(offer, self._result)
        except OSError as error:
            self._end(TaskEvent.FAILED, TaskState.FAILED, f"the result cannot be kept on disk: {error}")
            return
        self._governor.finished(current.spec, current.limits, current.chosen, offer.peak_rss_bytes)
        self._end(TaskEvent.FINISHED, TaskState.FINISHED, "", peak_rss_bytes=offer.peak_rss_bytes, sound=True)
        self._say(offer)

    def _over_budget(self, current: _Current, reason: str) -> None:
        """Learn from it, give the memory back, and say what comes next."""
        following = self._governor.over_budget(current.spec, current.limits, current.chosen, current.stage)
        where = f"while {current.stage.value}, {current.chosen.way}"
        self._end(
            TaskEvent.OVER_BUDGET,
            TaskState.OVER_BUDGET,
            f"{reason} ({where}); {following.refusal or 'the next try takes less'}",
            peak_rss_bytes=0 if current.worker is None else current.worker.peak_rss_bytes,
        )

    # -- the machine ------------------------------------------------------------------------

    def _follow(self, event: TaskEvent) -> None:
        """Take one step of the table; an event that means nothing now changes nothing."""
        self.state = TASK_TABLE.after(self.state, event)

    def _end(
        self,
        event: TaskEvent,
        state: TaskState,
        reason: str,
        *,
        peak_rss_bytes: int = 0,
        sound: bool = False,
    ) -> None:
        """Leave the task and tell the coordinator how it went. Only a ``sound`` worker is used again."""
        current = self._required()
        level = logging.INFO if state is TaskState.FINISHED else logging.WARNING
        logger.log(level, "run %s step %d: %s%s", *current.key, state.value, f" ({reason})" if reason else "")
        self._follow(event)
        self._release(current, sound=sound)
        self._say(
            TaskStatus(
                *current.key,
                state,
                reason[:_REASON_LIMIT],
                micro_batch=current.chosen.way.levers.micro_batch,
                levers=current.chosen.degrading,
                peak_rss_bytes=peak_rss_bytes,
                # Still of use: the deadline waits on until the result has arrived. No worker: another task's.
                paused_s=0.0 if current.worker is None else self._pauses.paused_s,
            )
        )

    def _abandon(self) -> None:
        """Drop the task without a word: the coordinator asked for it, or something newer takes its place."""
        if self._current is not None:
            self._follow(TaskEvent.CANCELLED)
            self._release(self._current, sound=False)

    def _release(self, current: _Current, *, sound: bool) -> None:
        """Forget the task. A worker that was in the middle of it is ended."""
        self._current = None
        self._inbox.close()
        if current.worker is not None:
            if sound:
                self._slot.rest()
            else:
                self._slot.close()
        self._result.unlink(missing_ok=True)

    def _required(self) -> _Current:
        if self._current is None:
            raise RuntimeError(f"no task in state {self.state}")  # a defect of this class
        return self._current

    def _masks_of(self, run: str) -> Path:
        """Run names come from the network and may hold anything."""
        return self._masks / hashlib.sha256(run.encode()).hexdigest()[:16]
