"""Small files of the kernel: one line, one number."""

from __future__ import annotations

import contextlib
from pathlib import Path


def text(path: Path) -> str:
    """The file's line. Raises ``OSError``, and ``ValueError`` where it is not text."""
    return path.read_text(encoding="utf-8").strip()


def text_or(path: Path, default: str) -> str:
    """The file's line, or ``default`` where there is none to be had."""
    with contextlib.suppress(OSError, ValueError):
        return text(path)
    return default


def integer(path: Path) -> int:
    """The file's number. Raises ``OSError`` and, with the path, ``ValueError``."""
    content = text(path)
    try:
        return int(content)
    except ValueError:
        raise ValueError(f"{path} holds {content[:40]!r}, not a whole number") from None


def integers(root: Path, pattern: str) -> dict[Path, int]:
    """Numbers of the files that match, by path; one that its driver refuses hides no other.

    Raises what the last one raised where there are files and none can be read.
    """
    found: dict[Path, int] = {}
    failure: Exception | None = None
    for path in sorted(root.glob(pattern)):
        try:
            found[path] = integer(path)
        except (OSError, ValueError) as error:
            failure = error
    if failure is not None and not found:
        raise failure
    return found
