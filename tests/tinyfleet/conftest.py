from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tinyfleet.cli import main
from tinyfleet.emulation import run as emulation_run


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def tinyfleet(monkeypatch, capsys) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tinyfleet", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = 0 if exit_.code is None else int(exit_.code)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


class ClosedGroup:
    """A cgroup that could be made and lets nobody in."""

    kind = "cgroup v2"
    closed = False

    def before_exec(self) -> None:
        raise PermissionError

    def oom_kills(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def closed_group(monkeypatch) -> ClosedGroup:
    """The only cgroup to be had."""
    group = ClosedGroup()
    monkeypatch.setattr(emulation_run, "choose_limit", lambda *given, **named: group)
    monkeypatch.setattr(emulation_run, "choose_quota", lambda *given: None)
    return group
