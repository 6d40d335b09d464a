"""What a sensor is and what it answers. A new one is a new file in ``checks``; there is no list to add it to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class State(StrEnum):
    """How a reading is to be taken."""

    OK = "ok"
    WARNING = "warning"  # training goes on, slower or closer to the edge than it should
    CRITICAL = "critical"  # the board is at risk, or about to stop by itself
    UNKNOWN = "unknown"  # the sensor is there and could not be read: the note says why


@dataclass(frozen=True, slots=True)
class Reading:
    """What one sensor found."""

    name: str
    value: float | None  # None: could not be read
    unit: str = ""
    state: State = State.OK
    note: str = ""  # for a person: which part, of how much, or what went wrong


@dataclass(frozen=True, slots=True)
class Options:
    """What the sensors are told. Raises ``ValueError`` where a warning would come after its critical state."""

    disk: Path | None = None  # a directory on the disk that counts; None: the root
    tools: bool = True  # a vendor's tool may be started where no file tells
    # Raspberry Pi firmware slows the processor from 80 degrees on, and everything from 85 on.
    temperature_warning_c: float = 75.0
    temperature_critical_c: float = 85.0
    battery_warning_percent: float = 30.0
    battery_critical_percent: float = 10.0
    swap_warning_percent: float = 50.0
    disk_warning_bytes: int = 1_000_000_000  # what inbox and outbox may take together, as shipped
    disk_critical_bytes: int = 100_000_000
    memory_warning_bytes: int = 64_000_000
    memory_critical_bytes: int = 32_000_000  # no engine works with less

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not self.temperature_warning_c <= self.temperature_critical_c:
            raise ValueError(
                f"temperature_warning_c {self.temperature_warning_c} is above temperature_critical_c "
                f"{self.temperature_critical_c}; give a warning that comes first"
            )
        for name in ("battery_{}_percent", "disk_{}_bytes", "memory_{}_bytes"):
            warning, critical = name.format("warning"), name.format("critical")
            if not getattr(self, warning) >= getattr(self, critical):
                raise ValueError(
                    f"{warning} {getattr(self, warning)} is below {critical} {getattr(self, critical)}; "
                    "give a warning that comes first"
                )


@dataclass(frozen=True, slots=True)
class Sensor:
    """One check. ``read`` gets the place of /sys and /proc; None says that this board has no such thing.

    It may raise whatever it likes: the reading then is unknown, and the other sensors are read.
    """

    name: str
    read: Callable[[Path, Options], Reading | None]
    figure: str = ""  # what its value is called in a heartbeat; "": not told there


def shown(reading: Reading) -> str:
    """The value with its unit, as a person reads it; "" where there is none."""
    if reading.value is None:
        return ""
    if reading.unit == "bytes":
        return f"{reading.value / 1e6:.0f} MB"
    return f"{round(reading.value, 2):.15g} {reading.unit}".rstrip()


def rising(value: float, warning: float, critical: float) -> State:
    """The state of a value that is worse the higher it is."""
    return State.CRITICAL if value >= critical else State.WARNING if value >= warning else State.OK


def falling(value: float, warning: float, critical: float) -> State:
    """The state of a value that is worse the lower it is."""
    return State.CRITICAL if value < critical else State.WARNING if value < warning else State.OK
