"""What an audit says: a part of it either holds, found something, or could not be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """Of one part of the audit."""

    CLEAN = "clean"
    FOUND = "found"
    NOT_ASKED = "not asked"  # the index or the database did not answer: nothing is known


@dataclass(frozen=True, slots=True)
class Part:
    """``lines`` names every finding, or what could not be asked and why."""

    name: str
    outcome: Outcome
    summary: str
    lines: list[str] = field(default_factory=list)
