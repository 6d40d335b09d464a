"""How far measuring has come, as a line for a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

_CLEAR = "\r\033[K"


def progress_on(stream: TextIO) -> Callable[[str, int, int], None]:
    """A ``progress`` for ``measure``: one line that changes on a terminal, else a line where a probe begins."""
    last = ""

    def tell(probe: str, done: int, total: int) -> None:
        nonlocal last
        if stream.isatty():
            stream.write(_CLEAR + (f"measuring {done}/{total}: {probe}" if probe else ""))
        elif probe and probe != last:
            stream.write(f"measuring {done}/{total}: {probe}\n")
        last = probe
        stream.flush()

    return tell
