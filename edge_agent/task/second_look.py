"""Looks at the board's data again while a run goes on without it: what was mended is said without a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import msgspec

from tinyfleet.edge_agent.worker.commands import DescribeCommand, Described, WorkerEvent
from tinyfleet.fedcore.foreign.data_description import DataDescription

logger = logging.getLogger(__name__)

AGAIN_S = 300.0
PATIENCE_S = 600.0  # of one look: folders of images are large


class LookingChild(Protocol):
    """A process that answers a ``DescribeCommand``: ``fedcore.child.Child``."""

    def send(self, message: Any) -> None: ...

    def receive(self, timeout: float) -> dict[str, Any] | None: ...

    def kill(self) -> None: ...


class Looked(NamedTuple):
    """What is there now. ``data`` is None where it cannot be read."""

    data: DataDescription | None
    samples: int


class SecondLook:
    """One look at a time, none while the board trains, and none where nobody wants it."""

    def __init__(
        self, command: DescribeCommand, start: Callable[[], LookingChild], clock: Callable[[], float]
    ) -> None:
        self._command, self._start, self._clock = command, start, clock
        self._due: float | None = None
        self._child: LookingChild | None = None
        self._ends = 0.0

    def wanted(self) -> None:
        """A run goes on without this board: something on it may change."""
        if self._due is None:
            self._due = self._clock() + AGAIN_S

    def tick(self, known: DataDescription | None, *, idle: bool) -> Looked | None:
        """What is there now where it is another thing than what is ``known``; that is said once."""
        now = self._clock()
        if self._child is None:
            if self._due is not None and now >= self._due and idle:
                self._child, self._ends = self._start(), now + PATIENCE_S
                self._child.send(self._command)
            return None
        said = self._child.receive(0.0)
        if said is None and now < self._ends and idle:
            return None
        self.close()
        if said is None:
            self._due = now + AGAIN_S  # the board is needed for a task, or the look takes too long
            return None
        event: WorkerEvent = msgspec.convert(said, type=WorkerEvent)
        found = Looked(event.data, event.samples) if isinstance(event, Described) else Looked(None, 0)
        if found.data == known:
            self._due = now + AGAIN_S
            return None
        self._due = now + AGAIN_S if found.data is None else None
        logger.info("this board's data is another now: %s", _in_words(found))
        return found

    def close(self) -> None:
        """End a look that is under way."""
        if self._child is not None:
            self._child.kill()
            self._child = None


def _in_words(found: Looked) -> str:
    if found.data is None:
        return "it cannot be read"
    return f"{found.samples} samples of {len(found.data.classes)} classes"
