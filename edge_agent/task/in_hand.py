"""The one task in hand, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from tinyfleet.edge_agent.states import AssignmentEvent
from tinyfleet.edge_agent.task.lease import Lease
from tinyfleet.edge_agent.worker.budget import Stage, TaskLimits
from tinyfleet.edge_agent.worker.commands import Chosen
from tinyfleet.fedcore.protocol.messages import ResultOffer, TaskOffer, TaskState
from tinyfleet.fedcore.run_spec import RunSpec


@dataclass(slots=True)
class TaskInHand:
    """What was offered, under what it is run, and how far it has come. ``began``: monotonic seconds."""

    offer: TaskOffer
    spec: RunSpec
    limits: TaskLimits
    began: float
    lease: Lease
    stage: Stage = Stage.LOADING
    chosen: Chosen = field(default_factory=Chosen)

    @property
    def key(self) -> tuple[str, int]:
        return self.offer.run, self.offer.step

    def makes_way_for(self, offer: TaskOffer) -> bool:
        """True where ``offer`` is the same task sent anew, or so much later that this result would be too stale."""
        if offer.run != self.offer.run:
            return False
        if offer.step == self.offer.step:
            return offer.manifest != self.offer.manifest
        return offer.step - self.offer.step > self.spec.fleet.staleness


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task leaves this board, and what the coordinator hears of it."""

    event: AssignmentEvent
    state: TaskState
    reason: str = ""
    peak_rss_bytes: int = 0
    paused_s: float = 0.0
    sound: bool = False  # the worker may be used again
    result: ResultOffer | None = None  # in the outbox, and announced from there
