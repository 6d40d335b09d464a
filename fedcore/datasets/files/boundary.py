"""Where foreign files become errors and counts of ours."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import MOST_REASONS, SkippedFiles
from tinyfleet.fedcore.foreign.shown import printable

_SHOWN = 160  # characters of a name


def shown(path: Path | str) -> str:
    """A path as a person reads it: bytes that are no text, and control characters, are escaped."""
    return printable(str(path), _SHOWN)


def class_name(name: str) -> str:
    """A class by its name alone: macOS writes an accent as a character of its own, and others do not."""
    return printable(unicodedata.normalize("NFC", name.strip()), 80)


@contextmanager
def reading(path: Path, kind: str, key: str = "") -> Iterator[None]:
    """What a library raises on foreign bytes, as one ``DataError`` that names the file, and ``key`` within it.

    ``kind`` says what the file should have been. What is here whole and too large for memory stays ``MemoryError``.
    """
    where = f"{shown(path)}{f', {printable(key, _SHOWN)}' if key else ''}"
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except MemoryError:
        raise
    except FileNotFoundError:
        raise DataError(f"{where}: no such file") from None
    except Exception as error:  # noqa: BLE001 - foreign bytes: a library raises what it likes
        reason = printable(str(error) or type(error).__name__, 300)
        raise DataError(f"{where} cannot be read as {kind}: {reason}") from None


class Leftovers:
    """Counts what a reader leaves out, by reason, with one example of each."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, str] = {}

    def add(self, reason: str, example: Path | str, count: int = 1) -> None:
        """``example`` names a file, or a place within one."""
        reason = printable(reason, 40)[:64]
        if reason not in self._counts and len(self._counts) >= MOST_REASONS - 1:
            reason = "other reasons"
        self._counts[reason] = self._counts.get(reason, 0) + count
        self._examples.setdefault(reason, printable(os.fspath(example), 120)[:200])

    def counted(self) -> dict[str, SkippedFiles]:
        """As a description holds it."""
        return {reason: SkippedFiles(count, self._examples[reason]) for reason, count in self._counts.items()}
