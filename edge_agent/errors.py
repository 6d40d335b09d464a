"""Fatal errors of the agent beyond those that both sides share; each has its own exit code."""

from __future__ import annotations

from tinyfleet.fedcore.errors import TinyfleetError


class AlreadyRunning(TinyfleetError):
    """Another agent uses this state directory."""

    exit_code = 8


class StateError(TinyfleetError):
    """The state directory cannot be used."""

    exit_code = 9
