"""The first half of a task: its blob comes to disk, before its lease is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from tinyfleet.edge_agent.states import AssignmentEvent
from tinyfleet.edge_agent.task.in_hand import Ending, TaskInHand
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol.messages import Manifest, Message, TaskState

logger = logging.getLogger(__name__)


class Fetching:
    """One blob at a time. ``send`` publishes if it can: what gets lost is asked for again."""

    def __init__(self, inbox: Inbox, send: Callable[[Message], None], clock: Callable[[], float]) -> None:
        self._inbox = inbox
        self._send = send
        self._clock = clock

    def open(self, manifest: Manifest) -> None:
        """Begin. Raises ``CodecError``, ``OSError`` where there is no room for it."""
        self._inbox.open(manifest)

    def chunk(self, payload: bytes) -> Ending | None:
        """A chunk message. Raises ``CodecError``."""
        try:
            self._inbox.accept(payload, self._clock())
        except OSError as error:
            return _failed(f"the task's blob cannot be stored: {error}")
        return None

    def tick(self, task: TaskInHand) -> Path | Ending | None:
        """The whole blob where it has come, how the task ends where it cannot; else ask for what is missing."""
        if task.lease.has_ended(self._clock()):
            return _failed("the lease ran out before the task's blob had arrived")
        try:
            blob = self._inbox.finished()
        except CodecError as error:
            logger.warning("blob of run %s step %d: %s; fetching it again", *task.key, error)
            return self._again(task.offer.manifest)
        except OSError as error:
            return _failed(f"the task's blob cannot be kept: {error}")
        if blob is None and (request := self._inbox.due(self._clock())) is not None:
            self._send(request)
        return blob

    def reconnected(self) -> None:
        """Ask for what is missing at once."""
        self._inbox.ask_again()

    def close(self) -> None:
        """No more of this blob; what has come stays for another try."""
        self._inbox.close()

    def _again(self, manifest: Manifest) -> Ending | None:
        try:
            self._inbox.open(manifest)
        except (CodecError, OSError) as error:
            return _failed(str(error))
        return None


def _failed(reason: str) -> Ending:
    return Ending(AssignmentEvent.FETCH_FAILED, TaskState.FAILED, reason)
