"""Windows of sensors' series: CSV or TSV files, a folder a class, or a column with the label of each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import AnyArray, FloatArray
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.boundary import Leftovers, class_name, shown
from tinyfleet.fedcore.datasets.files.class_folders import class_files, classes_of
from tinyfleet.fedcore.datasets.files.rows import Rows, read_rows
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.run_spec import Settings

SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
MOST_VALUES = 1 << 28  # of all windows
_TIMES = frozenset({"time", "timestamp"})


class TableSettings(Settings, frozen=True):
    """``tables:PATH?window=128&rate=50&label=activity&channels=x,y,z``."""

    window: Annotated[int, Meta(ge=2, le=1 << 20)] = 128  # rows of a sample
    stride: Annotated[int, Meta(ge=0, le=1 << 20)] = 0  # rows from one window to the next; 0: they do not overlap
    rate: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0  # rows a second; 0: not said
    label: str = ""  # column of the label; empty: the class is the file's folder
    channels: str = ""  # columns, by commas; empty: all but the label and times
    units: Annotated[str, Meta(max_length=64)] = ""


def load(path: Path, settings: TableSettings) -> tuple[Dataset, Dataset | None, str]:
    """Training part and, from PATH/test beside PATH/train, test part. Raises ``DataError``."""
    if not path.exists():
        raise DataError(f"{shown(path)}: no such file or folder")
    split = (path / "train").is_dir()
    root = path / "train" if split else path
    series = _Series(settings)
    train = series.windows(root)
    test = series.windows(path / "test") if split and (path / "test").is_dir() else None
    first = _dataset(train, series, settings)
    return first, None if test is None else _dataset(test, series, settings), f"tables of {shown(path.name)}"


class _Windows:
    def __init__(self) -> None:
        self.x: list[FloatArray] = []
        self.y: list[str] = []
        self.left_out = Leftovers()
        self.unlabelled = 0


class _Series:
    """Both parts' windows; what the first file says of channels holds for all."""

    def __init__(self, settings: TableSettings) -> None:
        self._settings = settings
        self.channels: tuple[str, ...] = ()
        self.labels: list[str] = []
        self._values = 0

    def windows(self, root: Path) -> _Windows:
        found = _Windows()
        for file, label in self._files(root, found.left_out):
            rows = read_rows(file)
            values, labels = self._columns(file, rows, label)
            for start, stop in _runs(labels):
                self._cut(found, values[start:stop], labels[start], file)
        if self._settings.label:
            self.labels = sorted({*self.labels, *found.y})
        return found

    def _files(self, root: Path, left_out: Leftovers) -> list[tuple[Path, str]]:
        if self._settings.label:
            if root.is_file():
                return [(root, "")]
            files = sorted(one for one in root.rglob("*") if one.is_file() and one.name[0] != ".")
            for one in files:
                if one.suffix.lower() not in SUFFIXES:
                    left_out.add(f"suffix {one.suffix} is not read", one.name)
            return [(one, "") for one in files if one.suffix.lower() in SUFFIXES]
        if not root.is_dir():
            raise DataError(f"{shown(root)} is one file: say with ?label=COLUMN which column has the labels")
        folders = classes_of(root)
        names = [class_name(folder) for folder in folders]
        self.labels = self.labels or names
        return [(file, names[label]) for file, label in class_files(root, folders, SUFFIXES, left_out)]

    def _columns(self, file: Path, rows: Rows, label: str) -> tuple[FloatArray, list[str]]:
        """(rows, channels) of numbers, NaN where a cell is none, and each row's label."""
        settings, column = self._settings, {name: index for index, name in enumerate(rows.columns)}
        if settings.label and settings.label not in column:
            raise DataError(f"{shown(file)} has no column {settings.label!r}, but {', '.join(rows.columns[:12])}")
        if not self.channels:
            left = {settings.label} if settings.label else set()
            named = tuple(one.strip() for one in settings.channels.split(",") if one.strip())
            self.channels = named or tuple(
                one for one in rows.columns if one not in left and one.lower() not in _TIMES
            )
        if missing := [one for one in self.channels if one not in column]:
            raise DataError(f"{shown(file)} has no column {missing[0]!r}, but {', '.join(rows.columns[:12])}")
        places = [column[one] for one in self.channels]
        values = np.array([[_value(row, place) for place in places] for row in rows.cells], np.float32)
        if not settings.label:
            return values.reshape(-1, len(places)), [label] * len(rows.cells)
        where = column[settings.label]
        labels = [class_name(row[where]) if len(row) > where else "" for row in rows.cells]
        return values.reshape(-1, len(places)), labels

    def _cut(self, found: _Windows, values: FloatArray, label: str, file: Path) -> None:
        window = self._settings.window
        if len(values) < window:
            found.left_out.add("shorter than a window", file.name)
        for start in range(0, len(values) - window + 1, self._settings.stride or window):
            one = values[start : start + window]
            if not np.isfinite(one).all():
                found.left_out.add("a value is missing or no number", f"{file.name}, row {start + 1}")
            elif not label:
                found.unlabelled += 1
            else:
                self._values += one.size
                if self._values > MOST_VALUES:
                    raise DataError(f"{shown(file)}: more than {MOST_VALUES} values in all; take a larger stride")
                found.x.append(one.T)
                found.y.append(label)


def _dataset(found: _Windows, series: _Series, settings: TableSettings) -> Dataset:
    if not found.x:
        reasons = ", ".join(f"{reason} ({one.example})" for reason, one in found.left_out.counted().items())
        raise DataError(f"no window of {settings.window} rows: {reasons or 'no rows'}; give a smaller window")
    labels = {name: label for label, name in enumerate(series.labels)}
    y = np.array([labels[name] for name in found.y], np.int64)
    meaning = Meaning(
        classes=tuple(series.labels),
        layout="CL",
        units=settings.units,
        rate=settings.rate,
        channels=series.channels if len(series.channels) <= 64 else (),
        unlabelled=found.unlabelled,
        skipped=found.left_out.counted(),
    )
    x: AnyArray = np.ascontiguousarray(np.stack(found.x), np.float32)
    return Dataset(x, y, len(series.labels), meaning)


def _value(row: list[str], place: int) -> float:
    try:
        return float(row[place])
    except (ValueError, IndexError):
        return float("nan")


def _runs(labels: list[str]) -> Iterator[tuple[int, int]]:
    """Rows of one label that follow each other."""
    start = 0
    for index in range(1, len(labels) + 1):
        if index == len(labels) or labels[index] != labels[start]:
            yield start, index
            start = index
