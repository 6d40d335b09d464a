"""What the running service tells the store, and learns from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.fedcore.protocol.messages import Enrolment

DEADLINE = "deadline"
"""Reason of a task that its step stopped waiting for when the time was over."""


class Part(StrEnum):
    """How much of a step's job a device is given."""

    WHOLE = "whole"
    PART = "part"  # fewer local steps
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Share:
    """What a step has in mind for one device."""

    device: str
    part: Part = Part.WHOLE
    chosen: bool = False  # it takes part; else others came first, or it is left out
    local_steps: int = 0  # of its part; 0: all of them
    whole_local_steps: int = 0  # of the whole job
    activation_keep: float = 1.0  # share of each layer's input that it may cache at most
    predicted_s: float | None = None  # of its part; of the whole job where it is left out
    basis: str = ""
    reason: str = ""  # why it is left out, or not given the whole job


@dataclass(frozen=True, slots=True)
class Choice:
    """The shares of all candidates, by name."""

    shares: tuple[Share, ...]

    @property
    def cohort(self) -> tuple[Share, ...]:
        """Those that take part."""
        return tuple(share for share in self.shares if share.chosen)

    @property
    def left_out(self) -> dict[str, str]:
        """Devices that could not have been chosen, and why."""
        return {share.device: share.reason for share in self.shares if share.part is Part.LEFT_OUT}


@dataclass(frozen=True, slots=True)
class TaskTime:
    """One finished task."""

    device: str
    train_s: float  # inside the worker
    wall_s: float  # from the offer's departure to the result, transfers included
    local_steps: int  # that it did; 1 where the job cannot be divided


@dataclass(frozen=True, slots=True)
class OpenedStep:
    """The step of a run that is open."""

    step: int
    attempt: int
    started: float  # seconds since 1970


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
class ChosenState:
    """Which state of a run is its result, and what is known of that state."""

    result: str  # of the run's settings, or what took its place
    step: int  # that it is the state after; of an average, the last one's
    sha256: str | None
    best_sha256: str | None = None  # of the run's best state, where any was measured
    test_accuracy: float | None = None
    validation_accuracy: float | None = None
    warning: str = ""


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
    rekey: bool = False  # the next key that is shown under its name is taken


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
    local_steps_done: int
    local_steps_total: int
    levers: str = ""
    unfit: bool = False  # its device says that it can never do it as it is
