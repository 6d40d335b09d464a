"""The worker's side of the governor: plans a task by what it predicts, and tightens it while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tinyfleet.device_profiles.limits import format_size
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.planning.planner import FitPlan, tighter
from tinyfleet.fedcore.training.allocator import trim

# A prediction that is this far beyond the target is believed; nearer ones are tried, under the limit.
_CERTAIN = 1.15


@dataclass(slots=True)
class Pilot:
    """The levers of one task. ``tighten`` is called by the thread that listens, all else by the one that trains."""

    control: Control
    plan: FitPlan | None  # None: without a limit there is nothing to plan
    heap: Callable[[bool], None] = field(default=lambda roomy: None)  # sets the allocator of this process
    rung: int = 0
    _keep: float = field(init=False)  # what the task itself was given
    _trim: bool = False

    def __post_init__(self) -> None:
        self._keep = self.control.keep
        if self.plan is not None:
            self._pull(self.plan, self.plan.rung)

    @property
    def refusal(self) -> str:
        """Why the task is not to be started; empty where it may fit."""
        plan = self.plan
        if plan is None or plan.forecast.peak_bytes <= _CERTAIN * plan.limit_bytes:
            return ""
        return (
            f"needs {format_size(plan.forecast.peak_bytes)} with {plan.levers}, and may take "
            f"{format_size(plan.limit_bytes)} here; raise limits.memory_limit, lower training.batch, "
            "or choose a smaller model"
        )

    def event(self, name: str) -> dict[str, Any]:
        """``planned`` or ``tightened``, with the levers as they are."""
        if self.plan is None:
            return {"event": name}
        way = self.plan.ways[self.rung]
        return {
            "event": name,
            "rung": self.rung,
            "rungs": len(self.plan.ways),
            "micro_batch": way.levers.micro_batch,
            "keep": self.control.keep,
            "roomy": way.levers.roomy,
            "peak_bytes": way.peak_bytes,
            "round_seconds": self.plan.steps * way.step_seconds,
            "text": str(way.levers),
        }

    def tighten(self) -> bool:
        """Go on with the next way that takes less; the running step ends as it began.

        False: there is none. The task then ends after its step: a part of its work is better than none.
        """
        following = None if self.plan is None else tighter(self.plan.ways, self.rung)
        if self.plan is None or following is None:
            self.control.enough = True
            return False
        self._pull(self.plan, following)
        self._trim = True
        return True

    def _pull(self, plan: FitPlan, rung: int) -> None:
        self.rung = rung
        levers = plan.ways[rung].levers
        levers.apply(self.control)
        self.heap(levers.roomy)
        self.control.keep = min(self.control.keep, self._keep)

    def step_done(self) -> None:
        """Between two steps: what the larger step freed goes back to the system."""
        if self._trim:
            self._trim = False
            trim()
