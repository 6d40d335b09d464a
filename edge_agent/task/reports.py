"""What the coordinator hears of the task in hand. Every status may get lost without harm."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from tinyfleet.edge_agent.task.in_hand import Ending, TaskInHand
from tinyfleet.fedcore.protocol.messages import Message, TaskOffer, TaskState, TaskStatus

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_S = 1.0
_REASON_LIMIT = 2000  # characters, of messages.Text


class Reports:
    """Says where the task stands, and remembers it for whoever asks. ``send`` publishes if it can."""

    def __init__(self, send: Callable[[Message], None], clock: Callable[[], float]) -> None:
        self._send = send
        self._clock = clock
        self._last: TaskStatus | None = None
        self._sent = 0.0
        self._said: set[tuple[str, str]] = set()  # runs, and what the log has of each

    def declined(self, offer: TaskOffer, reason: str, state: TaskState = TaskState.DECLINED) -> None:
        """A task that is left to others: ``UNFIT`` where this board can never do it as it is."""
        logger.warning("run %s step %d: %s (%s)", offer.run, offer.step, state.value, reason)
        self._send(TaskStatus(offer.run, offer.step, state, reason[:_REASON_LIMIT]))

    def left_out(self, run: str, reason: str) -> None:
        """The coordinator knows that this board cannot do a run's tasks: in the log once."""
        if (run, reason) not in self._said:
            logger.warning("run %s goes on without this device: %s", run, reason)
            self._said.add((run, reason))

    def accepted(self, task: TaskInHand) -> None:
        """A new task is in hand."""
        self._now(TaskStatus(*task.key, TaskState.ACCEPTED))

    def running(self, task: TaskInHand) -> None:
        """The worker has it."""
        self._now(TaskStatus(*task.key, TaskState.RUNNING))

    def planned(self, task: TaskInHand) -> None:
        """The worker has planned its task: in the log once a run where nothing changes."""
        known = (task.offer.run, str(task.chosen.way)) in self._said
        self._log_way(task, logging.DEBUG if known else logging.INFO)

    def tightened(self, task: TaskInHand) -> None:
        """The task goes on with less."""
        self._log_way(task, logging.INFO)

    def progress(self, task: TaskInHand, done: int, total: int, loss: float | None, paused_s: float) -> None:
        """Sent at most once a second."""
        self._last = TaskStatus(
            *task.key,
            TaskState.RUNNING,
            local_steps_done=done,
            local_steps_total=total,
            loss=loss,
            micro_batch=task.chosen.way.levers.micro_batch,
            levers=task.chosen.degrading,
            paused_s=paused_s,
        )
        if self._clock() - self._sent >= PROGRESS_INTERVAL_S:
            self._now(self._last)

    def paused(self, task: TaskInHand, reasons: tuple[str, ...], paused_s: float) -> None:
        """Paused for ``reasons``, or with none going on: otherwise as it was last."""
        state = TaskState.PAUSED if reasons else TaskState.RUNNING
        reason = "; ".join(reasons)[:_REASON_LIMIT]
        logger.info("run %s step %d: %s%s", *task.key, state.value, f" ({reason})" if reason else "")
        before = self._last or TaskStatus(*task.key, state)
        self._now(msgspec.structs.replace(before, state=state, reason=reason, paused_s=paused_s))

    def forget(self, run: str) -> None:
        """No more of this run."""
        self._said = {said for said in self._said if said[0] != run}

    def repeat(self) -> None:
        """Say again where the task stands."""
        if self._last is not None:
            self._send(self._last)

    def ended(self, task: TaskInHand, ending: Ending) -> None:
        """How it went."""
        self._last = None
        self._send(
            TaskStatus(
                *task.key,
                ending.state,
                ending.reason[:_REASON_LIMIT],
                micro_batch=task.chosen.way.levers.micro_batch,
                levers=task.chosen.degrading,
                peak_rss_bytes=ending.peak_rss_bytes,
                # Still of use: the deadline waits on until the result has arrived.
                paused_s=ending.paused_s,
            )
        )

    def _log_way(self, task: TaskInHand, level: int) -> None:
        why = ", for this board has no memory for more" if task.chosen.degrading else ""
        logger.log(level, "run %s step %d: %s%s", *task.key, task.chosen.way, why)
        self._said.add((task.offer.run, str(task.chosen.way)))

    def _now(self, status: TaskStatus) -> None:
        self._last, self._sent = status, self._clock()
        self._send(status)
