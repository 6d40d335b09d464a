"""Runs the checks: found by name, and one that fails never stops the others."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.doctor.answer import Answer, Check, CheckRow, Outcome, Surroundings
from tinyfleet.doctor.checks import CHECKS
from tinyfleet.fedcore.errors import ConfigError


def examine(surroundings: Surroundings, names: Sequence[str] | None = None) -> list[CheckRow]:
    """Run the checks called ``names`` (None: all). Raises ``ConfigError`` for an unknown name."""
    for name in names or ():
        if name not in CHECKS:
            raise ConfigError(f"check {name!r} is unknown; {hint(name, CHECKS)}")
    return [_run(name, CHECKS[name], surroundings) for name in names or CHECKS]


def _run(name: str, check: Check, surroundings: Surroundings) -> CheckRow:
    try:
        answer = check.look(surroundings)
    except Exception as error:  # noqa: BLE001  a broken library may raise anything, and the other checks go on
        answer = Answer(Outcome.MISSING, f"{type(error).__name__}: {error}")
    return CheckRow(name, check.essential, answer.status, answer.found, answer.remedy, answer.code, answer.kind)
