"""What the running service tells the ledger, and learns from it."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.fedcore.protocol.messages import Enrolment


@dataclass(frozen=True, slots=True)
class StepSummary:
    """What is known of a step once it is finished."""

    duration_s: float
    overhead_s: float
    results: int
    lost: list[dict[str, str]]
    loss: float | None
    accuracy: float | None
    density: float


@dataclass(frozen=True, slots=True)
class CountedResult:
    """A stored result that belongs to a step's fold, in order of arrival."""

    step: int  # the step it was computed for: an earlier one where it came late
    device: str
    sha256: str
    train_s: float


@dataclass(frozen=True, slots=True)
class Pin:
    """What the registry must remember of a device's identity."""

    device: str
    public_key: str
    session: str
    enrolment: Enrolment
    online: bool


@dataclass(frozen=True, slots=True)
class Presence:
    """One device's latest sign of life."""

    device: str
    session: str
    online: bool
    health: dict[str, float] | None
    idle_rss_bytes: int  # 0: not idle now
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class TaskNote:
    """A task's phase and progress."""

    device: str
    phase: TaskPhase
    reason: str
    retries: int
    micro_batch: int
    peak_rss_bytes: int
    done: int
    total: int
