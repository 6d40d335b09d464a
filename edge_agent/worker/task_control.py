"""The worker's side of the governor: plans a task by what it predicts, and tightens it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tinyfleet.device_profiles.limits import format_size
from tinyfleet.edge_agent.worker.commands import Chosen
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.planning.plan import Plan
from tinyfleet.fedcore.training.allocator import trim
from tinyfleet.fedcore.training.levers import Levers

# A prediction that is this far beyond the target is believed; nearer ones are tried, under the limit.
_CERTAIN = 1.15


@dataclass(slots=True)
class TaskControl:
    """The levers of one task. ``tighten`` is called by the thread that listens, all else by the one that trains."""

    control: Control
    plan: Plan | None  # None: without a limit there is nothing to plan
    heap: Callable[[bool], None] = field(default=lambda roomy: None)  # sets the allocator of this process
    _way: int = 0  # of the plan's
    _given: Levers = field(init=False)  # what the task itself was given
    _trim: bool = False

    def __post_init__(self) -> None:
        self._given = self.control.levers
        if self.plan is not None:
            self._follow(self.plan, self.plan.chosen)

    @property
    def refusal(self) -> str:
        """Why the task is not to be started; empty where it may fit."""
        plan = self.plan
        if plan is None or plan.forecast.peak_bytes <= _CERTAIN * plan.limit_bytes:
            return ""
        return (
            f"needs {format_size(plan.forecast.peak_bytes)} with {plan.forecast.way}, and may take "
            f"{format_size(plan.limit_bytes)} here; raise limits.memory_limit, lower training.batch, "
            "or choose a smaller model"
        )

    @property
    def chosen(self) -> Chosen:
        """The way that the task goes now, with the levers as they are."""
        if self.plan is None:
            return Chosen()
        forecast = self.plan.forecasts[self._way]
        way = replace(forecast.way, levers=self.control.levers)
        return Chosen(self._way, len(self.plan.forecasts), way, forecast.peak_bytes)

    def tighten(self) -> bool:
        """Go on with the next way that takes less; the running step ends as it began.

        False: there is none. The task then ends after its step: a part of its work is better than none.
        """
        following = None if self.plan is None else self.plan.tighter(self._way)
        if self.plan is None or following is None:
            self.control.enough = True
            return False
        self._follow(self.plan, following)
        self._trim = True
        return True

    def _follow(self, plan: Plan, index: int) -> None:
        self._way = index
        way = plan.forecasts[index].way
        self.control.levers = self._given.under(way.levers)
        self.heap(way.roomy)

    def step_done(self) -> None:
        """Between two steps: what the larger step freed goes back to the system."""
        if self._trim:
            self._trim = False
            trim()
