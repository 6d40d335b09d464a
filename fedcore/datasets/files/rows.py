"""Rows of CSV and TSV files as texts, by Python's own reader."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.fedcore.datasets.files.boundary import reading
from tinyfleet.fedcore.errors import DataError

MOST_BYTES = 1 << 29  # of one file
MOST_COLUMNS = 1024
_DELIMITERS = ",;\t"


@dataclass(frozen=True, slots=True)
class Rows:
    """Names of the columns, by their numbers from 1 where the file has no head, and the cells below."""

    columns: tuple[str, ...]
    cells: list[list[str]]


def read_rows(path: Path) -> Rows:
    """Cells of a file whose delimiter is what its first line has most of. Raises ``DataError``."""
    with reading(path, "a table"):
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"it has more than {MOST_BYTES} bytes; cut it into several files")
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            first = file.readline(1 << 16)
            file.seek(0)
            delimiter = max(_DELIMITERS, key=first.count)
            cells = [row for row in csv.reader(file, delimiter=delimiter) if row]
        if not cells:
            raise DataError("it is empty")
        if len(cells[0]) > MOST_COLUMNS:
            raise DataError(f"it has {len(cells[0])} columns; at most {MOST_COLUMNS} are read")
        head = [cell.strip() for cell in cells[0]]
        if all(_number(cell) for cell in head if cell):
            return Rows(tuple(str(index + 1) for index in range(len(head))), cells)
        if len(set(head)) != len(head):
            raise DataError("two of its columns have one name")
        return Rows(tuple(head), cells[1:])


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
