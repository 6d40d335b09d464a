"""The committed results: JSON files below docs/benchmarks, read as the rows that the benchmarks wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tinyfleet.bench.methods.cell import Cell

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class CommittedResults:
    """The folder of results, docs/benchmarks. What was read once is not read again."""

    directory: Path
    _known: dict[str, Any] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> Any:
        """A file as plain values; ``name`` has no suffix."""
        if name not in self._known:
            self._known[name] = msgspec.json.decode((self.directory / f"{name}.json").read_bytes())
        return self._known[name]

    def rows(self, name: str, kind: type[Row]) -> list[Row]:
        """A file that is a list of rows."""
        return msgspec.convert(self.read(name), list[kind])  # type: ignore[valid-type]

    def cells(self, bench: str) -> list[Cell]:
        """The finished runs of a method benchmark."""
        return msgspec.convert(self.read(f"{bench}/results")["runs"], list[Cell])


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, words: bool = False) -> str:
    """A table whose first column is text and whose others are figures, or ``words``."""
    lines = [f"| {' | '.join(columns)} |", f"|---|{('---|' if words else '---:|') * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
