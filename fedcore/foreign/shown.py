"""Foreign text where people read it: no control sequence, no line of its own, no turned direction."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TextIO, TypeAlias

_LIMIT = 4000  # characters of one message or cell

_ExceptionInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


def printable(text: str, limit: int = _LIMIT) -> str:
    r"""``text`` with everything that is not shown as a character escaped: ``\x1b``, ``\n``, ``\u202e``.

    A text longer than ``limit`` characters is cut, and says so.
    """
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return f"{text}... ({cut} more)" if cut > 0 else text


def printable_json(document: str) -> str:
    r"""JSON text that holds no unprintable character: such a one is ``\u...``, which reads the same."""
    if document.isascii() and "\x7f" not in document:
        return document
    return "".join(char if char.isprintable() or char == "\n" else _json_escaped(char) for char in document)


class OneLine(logging.Formatter):
    """A record is one line whatever its arguments hold; lines of a traceback are indented, and escaped too."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line itself."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - logging's name
        """The lines below it."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class _Handler(logging.StreamHandler[TextIO]):
    """That of ``log_to_stderr``."""


def log_to_stderr(level: str | int, form: str) -> None:
    """The root logger's handler: every record on the terminal or in the journal is ``OneLine``.

    Whoever says it last decides, unless somebody else handles the root's records, or all are wanted already.
    """
    root = logging.getLogger()
    handler = next((one for one in root.handlers if isinstance(one, _Handler)), None)
    if handler is None:
        if root.handlers:
            return
        handler = _Handler()
        root.addHandler(handler)
    elif root.level == logging.DEBUG:
        level = logging.DEBUG
    handler.setFormatter(OneLine(form))
    root.setLevel(level)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _json_escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
