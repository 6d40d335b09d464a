"""A device's way to do a task within its budget, and the ways that there are. Light: the supervisor has it."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

MARGIN = 1.05  # over the prediction: its error on a board whose cost model was measured


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a task."""

    levers: Levers = NO_LEVERS
    # Freed memory stays with the process and is used again: faster, and more of it. Else it is given back.
    roomy: bool = False

    def __str__(self) -> str:
        return f"{self.levers}, freed memory kept" if self.roomy else str(self.levers)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one way takes: the whole process at its peak, and one step."""

    way: Way
    peak_bytes: int
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The first way that fits, or the smallest that there is and what it lacks."""

    forecasts: tuple[Forecast, ...]  # of all ways, the gentlest first
    chosen: int  # of ``forecasts``
    limit_bytes: int
    steps: int  # of one round

    @property
    def forecast(self) -> Forecast:
        return self.forecasts[self.chosen]

    @property
    def levers(self) -> Levers:
        return self.forecast.way.levers

    @property
    def round_seconds(self) -> float:
        return self.steps * self.forecast.step_seconds

    @property
    def fits(self) -> bool:
        return self.forecast.peak_bytes * MARGIN <= self.limit_bytes

    @property
    def missing_bytes(self) -> int:
        """What the limit would have to rise by."""
        return max(0, int(self.forecast.peak_bytes * MARGIN) - self.limit_bytes)

    def tighter(self, than: int) -> int | None:
        """The next way that takes less memory; None where there is none."""
        forecasts = self.forecasts
        less = (i for i in range(than + 1, len(forecasts)) if forecasts[i].peak_bytes < forecasts[than].peak_bytes)
        return next(less, None)
