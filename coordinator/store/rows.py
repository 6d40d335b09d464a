"""What the store hands out: plain, frozen rows that ``dataclasses.asdict`` turns into JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tinyfleet.fedcore.foreign.data_description import DataDescription


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. ``step`` and ``round`` count what is finished; times are seconds since 1970."""

    run: str
    name: str
    method: str
    state: str  # RunState
    reason: str
    step: int
    round: int
    rounds: int
    created: float
    started: float | None
    finished: float | None
    spec: dict[str, Any]
    result: str = ""  # which state is its result: "last", "best", "averaged"; empty: it has not ended
    result_step: int | None = None  # the step that the result is the state after; of an average, the last one's
    result_test_accuracy: float | None = None
    result_validation_accuracy: float | None = None
    warning: str = ""  # what is to be known of its result; empty: nothing


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a run. Bytes are medians over its devices; loss and accuracy are the devices' means."""

    run: str
    step: int
    stage: str
    round: int
    state: str  # StepState
    started: float
    finished: float | None
    duration_s: float | None
    overhead_s: float | None  # duration without the slowest device's training
    expected: int
    results: int
    lost: list[dict[str, str]]  # {"device", "reason"} of each task without a result
    loss: float | None
    accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    density: float | None
    bytes_up: float | None
    bytes_down: float | None
    attempt: int
    left_out: dict[str, str] = field(default_factory=dict)  # device -> why it was not taken into account
    evaluation: str = ""  # why the state after it has no test accuracy; empty: it has, or will have
    validation_loss: float | None = None  # on the data that the run's result is chosen by
    validation_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One device's part in one step."""

    run: str
    step: int
    device: str
    state: str  # TaskPhase
    reason: str
    micro_batch: int
    train_s: float | None
    task_s: float | None
    peak_rss_bytes: int
    bytes_up: int | None
    bytes_down: int | None
    engine: str
    retries: int
    local_steps_done: int
    local_steps_total: int
    local_steps: int = 0  # that it was given; 0: the whole job
    activation_keep: float = 1.0  # share of each layer's input that it may cache at most
    wall_s: float | None = None  # from the offer's departure to the result on disk here
    levers: str = ""  # what its results suffer to fit its board's memory; empty: nothing


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device. ``online`` is what the coordinator knew when it last ran."""

    device: str
    name: str
    enrolment: str  # Enrolment
    online: bool
    last_seen: float
    profile: dict[str, Any]
    health: dict[str, float]
    samples: int
    engines: list[str]
    memory_limit_bytes: int
    idle_rss_bytes: int  # of the supervisor, at its latest heartbeat without a task
    peak_rss_bytes: int  # the most that any of its tasks or heartbeats reported
    quarantine: str = ""  # why its messages are dropped unread for now; empty: they are not
    public_key: str = ""  # base64
    fingerprint: str = ""  # of the key, short enough to compare; the board's `edge-agent status` shows it too
    rekey: bool = False  # the next key that is shown under its name is taken
    trouble: str = ""  # who else speaks as this device
    data: DataDescription | None = None  # what its numbers and labels mean; None: it does not say


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What the latest step that looked at a device had in mind for it."""

    device: str
    run: str
    step: int
    part: str  # Part
    chosen: bool  # False: it could have done its part, and others were chosen
    local_steps: int  # of its part; 0: all of them
    whole_local_steps: int  # of the whole job; 0: not known, or it cannot be divided
    activation_keep: float
    predicted_s: float | None  # of its part; of the whole job where it is left out
    basis: str  # what the prediction rests on
    reason: str  # why it is left out, or not given the whole job
