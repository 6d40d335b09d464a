"""What a check looks at and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What a check says."""

    OK = "ok"
    WARNING = "warning"  # works, but not as well as it could
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks look at."""

    state: Path
    broker: str | None = None  # URL of a broker to try
    config: Path | None = None  # file whose part [broker] says how
    root: Path = Path("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one check found, and what to do about it ("" where nothing)."""

    status: Outcome
    found: str
    remedy: str = ""
    code: int = 1  # of the program, where something essential is missing
    kind: str = ""  # of what is wrong, for programs


@dataclass(frozen=True, slots=True)
class CheckRow:
    """An answer with its check's name; the demo cannot run without the essential ones."""

    name: str
    essential: bool
    status: Outcome
    found: str
    remedy: str
    code: int = 1
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table."""

    look: Callable[[Surroundings], Answer]
    essential: bool = False
