"""The committed results: JSON files below docs/benchmarks, read as the rows that the benchmarks wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tinyfleet.bench.methods.cell import Cell

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Results:
    """The folder of results, docs/benchmarks."""

    directory: Path

    def read(self, name: str) -> Any:
        """A file as plain values; ``name`` has no suffix."""
        return msgspec.json.decode((self.directory / f"{name}.json").read_bytes())

    def rows(self, name: str, kind: type[Row]) -> list[Row]:
        """A file that is a list of rows."""
        return msgspec.json.decode((self.directory / f"{name}.json").read_bytes(), type=list[kind])  # type: ignore[valid-type]

    def cells(self, bench: str) -> list[Cell]:
        """The finished runs of a method benchmark."""
        return msgspec.convert(self.read(f"{bench}/results")["runs"], list[Cell])


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, words: bool = False) -> str:
    """A table whose first column is text and whose others are figures, or ``words``."""
    lines = [f"| {' | '.join(columns)} |", f"|---|{('---|' if words else '---:|') * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
