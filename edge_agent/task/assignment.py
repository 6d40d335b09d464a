"""The agent's one task, from the offer to the result in the outbox: fetch, train, keep.

Driven by ``Assignment.tick`` and by the messages that the supervisor hands in. Whether the
network is there does not matter to anything but the fetching.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.states import TASK_TABLE, AssignmentEvent, AssignmentState
from tinyfleet.edge_agent.task.fetching import Fetching
from tinyfleet.edge_agent.task.in_hand import Ending, TaskInHand
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.lease import Lease
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.task.reports import Reports
from tinyfleet.edge_agent.task.training import Training
from tinyfleet.edge_agent.worker.budget import Governor
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.slot import StartWorker, WorkerSlot
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.foreign.bounds import check_bounds
from tinyfleet.fedcore.protocol.messages import Message, TaskOffer, TaskState
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert

logger = logging.getLogger(__name__)


class Assignment:
    """Follows ``TASK_TABLE`` and owns the task in hand.

    ``send`` publishes if it can; ``unfit`` is called where a task can never be done as things are.
    """

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
        send: Callable[[Message], None],
        clock: Callable[[], float],
        unfit: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = AssignmentState.IDLE
        self.task: TaskInHand | None = None
        self._device = device
        self._connected_at: float | None = None
        self._governor = governor
        self._outbox = outbox
        self._send = send
        self._unfit = unfit
        self._clock = clock
        self._reports = Reports(send, clock)
        self._slot = WorkerSlot(start_worker, clock)
        self._fetching = Fetching(inbox, send, clock)
        self._training = Training(
            device,
            config,
            state,
            governor=governor,
            slot=self._slot,
            pauses=pauses,
            reports=self._reports,
            outbox=outbox,
            clock=clock,
        )

    @property
    def key(self) -> tuple[str, int] | None:
        """(run, step) under way, or None."""
        return None if self.task is None else self.task.key

    @property
    def worker_rss_bytes(self) -> int:
        return self._slot.rss_bytes

    @property
    def patience_s(self) -> float:
        """How long the worker may go without ``tick``."""
        return self._slot.patience_s

    @property
    def held_runs(self) -> list[str]:
        """Those that masks are kept of."""
        return self._training.held.names()

    # -- what the coordinator says --------------------------------------------------------

    def offered(self, offer: TaskOffer) -> None:
        """Take a task, or say why not. Offers that are repeated are answered with where their task stands."""
        waiting = self._outbox.get(offer.run, offer.step)
        task = self.task
        if waiting is not None:
            self._send(waiting)
        elif task is None or task.makes_way_for(offer):
            self._take(offer)
        elif task.key == (offer.run, offer.step):
            self._reports.repeat()
        else:
            self.decline(offer, f"busy with run {task.offer.run} step {task.offer.step}")

    def decline(self, offer: TaskOffer, reason: str) -> None:
        """Leave a task to others."""
        self._reports.declined(offer, reason)

    def chunk(self, payload: bytes) -> None:
        """A chunk message. Raises ``CodecError``."""
        if self.state is AssignmentState.FETCHING:
            self._end(self._fetching.chunk(payload))

    def cancelled(self, run: str, step: int, reason: str) -> None:
        """Stop this task and drop its result."""
        self._outbox.drop(run, step)
        if self.key == (run, step):
            logger.info("run %s step %d: cancelled (%s)", run, step, reason or "no reason given")
            self._abandon()

    def left_out(self, run: str, reason: str) -> None:
        """The run goes on without this device."""
        self._reports.left_out(run, reason)

    def ended(self, run: str) -> None:
        """No more of this run: its task, worker and masks go. Results in the outbox stay for a verdict."""
        if self.task is not None and self.task.offer.run == run:
            self.cancelled(*self.task.key, "the run has ended")
        self._training.forget(run)

    def extended(self, run: str, step: int, lease_s: float) -> None:
        """The coordinator waits on for this task."""
        if self.task is not None and self.task.key == (run, step):
            self.task.lease.extend(lease_s, self._clock())

    def connected(self) -> None:
        """Ask for what is missing at once."""
        self._connected_at = self._clock()
        self._fetching.reconnected()

    def disconnected(self) -> None:
        """Training goes on, whatever its lease."""
        self._connected_at = None

    def stop(self) -> None:
        """The agent stops: the task is lost, what is on disk stays."""
        self._abandon()
        self._slot.close()

    # -- what time brings -----------------------------------------------------------------

    def tick(self) -> None:
        """Move on whatever can move on now. Never blocks for long."""
        if self.task is None:
            self._slot.mind()
        elif self.state is AssignmentState.TRAINING:
            self._end(self._training.tick(self.task) or self._overdue(self.task))
        else:
            self._fetch(self.task)

    # -- the machine ------------------------------------------------------------------------

    def _take(self, offer: TaskOffer) -> None:
        try:
            check_bounds(offer.spec, "spec of the offer")
            spec = convert(offer.spec, RunSpec, "spec of the offer")
        except ConfigError as error:  # of a coordinator that is newer, say
            self._reports.declined(offer, str(error), TaskState.UNFIT)
            return
        try:
            limits = self._governor.limits(spec, self._slot.rss_bytes)
            if limits.refusal:
                raise ConfigError(limits.refusal)
            self._abandon()
            self._fetching.open(offer.manifest)
        except (ConfigError, CodecError, OSError) as error:
            self.decline(offer, str(error))
            return
        self._follow(AssignmentEvent.OFFERED)
        logger.info("run %s step %d: accepted, %d bytes to fetch", offer.run, offer.step, offer.manifest.size)
        now = self._clock()
        self.task = TaskInHand(offer, spec, limits, now, Lease(self._device, offer.lease_s, now))
        self._reports.accepted(self.task)
        self.tick()

    def _fetch(self, task: TaskInHand) -> None:
        found = self._fetching.tick(task)
        if isinstance(found, Path):
            self._follow(AssignmentEvent.FETCHED)
            found = self._training.begin(task, found)
        self._end(found)

    def _overdue(self, task: TaskInHand) -> Ending | None:
        """How a task ends that nobody can be waiting for any more."""
        if not task.lease.ends_work(self._clock(), self._connected_at):
            return None
        reason = "its lease has run out, and the coordinator has not extended it"
        return Ending(AssignmentEvent.LEASE_OVER, TaskState.FAILED, reason)

    def _end(self, ending: Ending | None) -> None:
        """Leave the task where it has ended, and tell the coordinator how it went."""
        if ending is None or self.task is None:
            return
        task, state = self.task, ending.state
        level = logging.INFO if state is TaskState.FINISHED else logging.WARNING
        reason = f" ({ending.reason})" if ending.reason else ""
        logger.log(level, "run %s step %d: %s%s", *task.key, state.value, reason)
        self._leave(ending.event, sound=ending.sound)
        self._reports.ended(task, ending)
        if state is TaskState.UNFIT:
            self._unfit()
        if ending.result is not None:
            self._send(ending.result)

    def _abandon(self) -> None:
        """Drop the task without a word: the coordinator asked for it, or something newer takes its place."""
        if self.task is not None:
            self._leave(AssignmentEvent.CANCELLED, sound=False)

    def _leave(self, event: AssignmentEvent, *, sound: bool) -> None:
        """Forget the task. A worker that was in the middle of it is ended."""
        trained = self.state is AssignmentState.TRAINING
        self._follow(event)
        self.task = None
        self._fetching.close()
        if trained:
            self._training.release(sound=sound)

    def _follow(self, event: AssignmentEvent) -> None:
        """Take one step of the table; an event that means nothing now changes nothing."""
        self.state = TASK_TABLE.after(self.state, event)
