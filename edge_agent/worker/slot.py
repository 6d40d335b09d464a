"""The one worker process of an agent: started for a task, kept between tasks where the limits say ``warm``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from tinyfleet.edge_agent.worker.budget import TaskLimits
from tinyfleet.edge_agent.worker.commands import OverBudget, TaskFailed
from tinyfleet.edge_agent.worker.process import Worker

logger = logging.getLogger(__name__)

# A warm worker without a task gives its memory back after this.
WARM_IDLE_S = 600.0

StartWorker = Callable[[str, TaskLimits], Worker]


class WorkerSlot:
    """Holds at most one worker. ``run`` names are compared, never used as file names."""

    def __init__(self, start: StartWorker, clock: Callable[[], float]) -> None:
        self._start = start
        self._clock = clock
        self._worker: Worker | None = None
        self._rested = 0.0

    @property
    def worker(self) -> Worker | None:
        """The process that is there: to speak to, not to keep."""
        return self._worker

    @property
    def rss_bytes(self) -> int:
        return 0 if self._worker is None else self._worker.rss_bytes

    @property
    def patience_s(self) -> float:
        """How long the worker may go without ``poll``; without one there is nothing to wait for."""
        return math.inf if self._worker is None else self._worker.patience_s

    def take(self, run: str, limits: TaskLimits) -> Worker:
        """The warm worker of this run where there is one, else a new process. Raises ``OSError``."""
        worker = self._worker
        if worker is not None and (worker.run, _process_part(worker.limits)) != (run, _process_part(limits)):
            self.close()
        if self._worker is None:
            self._worker = self._start(run, limits)
            logger.info("worker started (%s; %s)", limits.policy, self._worker.held_by)
        return self._worker

    def rest(self) -> None:
        """The task is over and the worker sound: a warm one waits for the next, a fresh one ends."""
        self._rested = self._clock()
        if self._worker is not None and self._worker.limits.policy == "fresh":
            self.close()

    def mind(self) -> None:
        """Between tasks: a worker that died, grew or was left alone goes."""
        if self._worker is None:
            return
        event = self._worker.poll(self._clock())
        if isinstance(event, TaskFailed | OverBudget):
            logger.info("idle worker: %s", event.reason)
            self.close()
        elif self._clock() - self._rested > WARM_IDLE_S:
            self.close()

    def close(self, run: str | None = None) -> None:
        """End the worker, if it is there and serves ``run`` (None: whichever)."""
        if self._worker is not None and run in (None, self._worker.run):
            self._worker.close()
            self._worker = None


def _process_part(limits: TaskLimits) -> tuple[int, str, int]:
    """What of the limits is fixed when the process starts."""
    return limits.threads, limits.policy, limits.memory_limit_bytes
