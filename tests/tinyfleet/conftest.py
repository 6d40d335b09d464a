from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tinyfleet.cli import main


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
