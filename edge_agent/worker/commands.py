"""What supervisor and worker say to each other: one JSON document a line, tagged with what it is.

Both sides are of one installation, so that nothing here has versions. Paths are absolute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.planning.plan import Way
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

# -- to the worker ------------------------------------------------------------------------


class TaskCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="task"):
    """Do one task: read ``blob``, write ``result``. ``spec`` is a RunSpec, ``data`` an AgentDataSettings."""

    device: str
    blob: str
    result: str
    masks: str
    spec: dict[str, Any]
    data: dict[str, Any]
    engine: str = "auto"
    threads: int = 1
    target_bytes: int = 0  # what the whole process may take; 0: no bound
    first_way: int = 0  # of the plan: ways before it are known to be too much
    factor: float = 1.0  # measured by predicted peak of such tasks so far
    cost_model: str = ""  # file in which this board's own may be
    local_steps: int = 0  # of the offer: a part of the round; 0: all of it
    levers: Levers = NO_LEVERS  # of the offer: the plan may be tighter, never looser
    memory_limit_bytes: int = 0  # what may be resident; 0: no limit
    privacy: dict[str, Any] = {}  # an AgentPrivacySettings
    releases: str = ""  # directory of what left the board of a run with local privacy, beside those of other runs


class TightenCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="tighten"):
    """Go on with less memory from the next step on. Means nothing while no task trains."""


class DescribeCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="cmd", tag="describe"):
    """Say what is here: engines, number of samples of this device, the board's profile.

    ``profile`` names the file in which an earlier measurement of the board may be.
    """

    device: str
    data: dict[str, Any]
    profile: str = ""


Command = TaskCommand | TightenCommand | DescribeCommand


# -- from the worker ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the worker's plan settled on. ``peak_bytes``: predicted, ``factor`` counted in."""

    index: int = 0  # of the plan's ways
    ways: int = 0  # that the plan has; 0: no plan was made
    way: Way = field(default_factory=Way)
    peak_bytes: int = 0

    @property
    def degrading(self) -> str:
        """What the results suffer for the board's sake, in words; empty: nothing."""
        return str(self.way.levers) if self.way.levers.degrading else ""


class Described(msgspec.Struct, frozen=True, tag_field="event", tag="described"):
    """The answer to a ``DescribeCommand``. ``samples``: of this device, the development set counted in."""

    engines: tuple[str, ...]
    samples: int
    profile: dict[str, Any]
    version: str
    data: DataDescription


class Planned(msgspec.Struct, frozen=True, tag_field="event", tag="planned"):
    """The levers that fit; without a bound there is nothing to plan."""

    chosen: Chosen = Chosen()


class Declined(msgspec.Struct, frozen=True, tag_field="event", tag="declined"):
    """No way fits; the task was not begun."""

    reason: str


class TrainingBegan(msgspec.Struct, frozen=True, tag_field="event", tag="training"):
    """The engine is up."""

    engine: str


class StepsDone(msgspec.Struct, frozen=True, tag_field="event", tag="progress"):
    """``done`` of ``total`` local steps, and the last one's loss: None where that is no number."""

    done: int
    total: int
    loss: float | None


class Tightened(msgspec.Struct, frozen=True, tag_field="event", tag="tightened"):
    """From the next local step on the task takes less."""

    chosen: Chosen


class EndsEarly(msgspec.Struct, frozen=True, tag_field="event", tag="ending"):
    """No way takes less: the task ends after its present step, with what is done by then."""


class TaskDone(msgspec.Struct, frozen=True, tag_field="event", tag="done"):
    """The result is on disk."""

    train_s: float
    peak_rss_bytes: int
    engine: str


class TaskFailed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """An error's type and first line, or how the worker died."""

    kind: str
    reason: str


class MaskMissing(msgspec.Struct, frozen=True, tag_field="event", tag="needs_mask"):
    """The blob refers to a mask that is not held here."""

    digest: str
    reason: str


class Unfit(msgspec.Struct, frozen=True, tag_field="event", tag="unfit"):
    """The board as it is can never do the task: its data, its parts, or the terms of its owner are in the way."""

    kind: str  # the error's type
    reason: str


class OverBudget(msgspec.Struct, frozen=True, tag_field="event", tag="over_budget"):
    """Memory ran out: an allocation failed, or the worker was ended at its limit."""

    reason: str


class Exited(msgspec.Struct, frozen=True, tag_field="event", tag="exit"):
    """The process has ended; the last event, made by its parent's reader (``fedcore.child``)."""

    code: int


# What a worker writes, and its end.
WorkerEvent = (
    Described
    | Planned
    | Declined
    | TrainingBegan
    | StepsDone
    | Tightened
    | EndsEarly
    | TaskDone
    | TaskFailed
    | MaskMissing
    | Unfit
    | OverBudget
    | Exited
)


class NearLimit(msgspec.Struct, frozen=True, tag_field="event", tag="near_limit"):
    """The watcher, not the worker: so much is resident, close to what may be."""

    rss_bytes: int
