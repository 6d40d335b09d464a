"""Stops the worker while a guard of the board has tripped, and lets it go on."""

from __future__ import annotations

from collections.abc import Callable

from tinyfleet.edge_agent.guards.guards import Guards, PauseVerdict
from tinyfleet.edge_agent.worker.process import Worker

# Sensors change slowly, and every look reads a dozen files.
CHECK_INTERVAL_S = 1.0
_CLEAR = PauseVerdict(False)


class Pauses:
    """Of one task at a time. The guards live on: a board that is too hot for one task is so for the next."""

    def __init__(self, guards: Guards, clock: Callable[[], float]) -> None:
        self._guards = guards
        self._clock = clock
        self._next_check = 0.0
        self._verdict = _CLEAR

    @property
    def paused_s(self) -> float:
        """Seconds that the current task has been paused."""
        return self._guards.paused_s

    def begin(self, worker: Worker) -> None:
        """A new task. A warm worker may have been stopped just as it finished the last one."""
        worker.resume()
        self._guards.begin()
        self._verdict = _CLEAR
        self._next_check = self._clock()

    def mind(self, worker: Worker) -> PauseVerdict | None:
        """Look at the board where it is time to; the verdict where it is another than before."""
        now = self._clock()
        if now < self._next_check:
            return None
        self._next_check = now + CHECK_INTERVAL_S
        before, self._verdict = self._verdict, self._guards.check()
        if self._verdict == before:
            return None
        if self._verdict.paused:
            worker.pause()
        else:
            worker.resume()
        return self._verdict
