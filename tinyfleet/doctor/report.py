"""Checks of one machine: each a small function in a table, found by name; one that fails never stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.fedcore.errors import ConfigError


class Status(StrEnum):
    """What a check says."""

    OK = "ok"
    WARNING = "warning"  # works, but not as well as it could
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks look at."""

    state: Path
    broker: str | None = None  # URL of a broker to try
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check found, and what to do about it ("" where nothing)."""

    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer with its check's name; the demo cannot run without the essential ones."""

    name: str
    essential: bool
    status: Status
    found: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table."""

    look: Callable[[Surroundings], Answer]
    essential: bool = False


def examine(surroundings: Surroundings, names: Sequence[str] | None = None) -> list[Finding]:
    """Run the checks called ``names`` (None: all). Raises ``ConfigError`` for an unknown name."""
    from tinyfleet.doctor.checks import CHECKS

    for name in names or ():
        if name not in CHECKS:
            raise ConfigError(f"check {name!r} is unknown; {hint(name, CHECKS)}")
    return [_run(name, CHECKS[name], surroundings) for name in names or CHECKS]


def _run(name: str, check: Check, surroundings: Surroundings) -> Finding:
    try:
        answer = check.look(surroundings)
    except Exception as error:  # noqa: BLE001  a broken library may raise anything, and the other checks go on
        answer = Answer(Status.MISSING, f"{type(error).__name__}: {error}")
    return Finding(name, check.essential, answer.status, answer.found, answer.remedy)
