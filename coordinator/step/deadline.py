"""How long a step waits: its deadline, put off by the pauses of those that it waits for."""

from __future__ import annotations

from collections.abc import Iterable

from tinyfleet.coordinator.step.step_task import StepTask


class StepDeadline:
    """Passes ``deadline_s`` after it was set, put off by the longest pause, at most by as much again.

    Times are monotonic seconds.
    """

    def __init__(self, now: float, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._at = now + deadline_s

    def put_off_s(self, tasks: Iterable[StepTask], now: float) -> float:
        """What it is put off by: the longest pause of those it waits for, at most as long as itself."""
        held = (task.pauses_s(now) for task in tasks if not task.settled)
        return min(max(held, default=0.0), self._deadline_s)

    def due_at(self, tasks: Iterable[StepTask], now: float) -> float:
        """When it passes."""
        return self._at + self.put_off_s(tasks, now)

    def left_s(self, tasks: Iterable[StepTask], now: float) -> float:
        """Until it passes."""
        return max(0.0, self.due_at(tasks, now) - now)

    def set_again(self, tasks: Iterable[StepTask], now: float) -> None:
        """Start anew; pauses until now put nothing off any more."""
        for task in tasks:
            task.forgive(now)
        self._at = now + self._deadline_s
