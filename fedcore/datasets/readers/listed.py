"""Images by a list: a CSV file with columns path and label, and where they are known split and group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.boundary import Leftovers, class_name, shown
from tinyfleet.fedcore.datasets.files.rows import Rows, read_rows
from tinyfleet.fedcore.datasets.readers import images
from tinyfleet.fedcore.datasets.readers.image_folder import ImageFolderSettings
from tinyfleet.fedcore.errors import DataError

_TRAIN, _TEST = frozenset({"", "train", "training"}), frozenset({"test"})


def load(path: Path, settings: ImageFolderSettings) -> tuple[Dataset, Dataset | None, str]:
    """Paths are relative to the list. A row without a label is counted, and may get one later.

    Raises ``DataError``, also where one group (a person, a recording) stands in both splits.
    """
    rows = read_rows(path)
    if not {"path", "label"} <= set(rows.columns):
        raise DataError(f"{shown(path)} has columns {', '.join(rows.columns[:12])}; it needs path and label")
    left_out, unlabelled = Leftovers(), 0
    parts: dict[bool, list[tuple[Path, str]]] = {False: [], True: []}
    groups: dict[str, bool] = {}
    for number, row in enumerate(rows.cells, 2):
        named, label, split, group = (_cell(rows, row, name) for name in ("path", "label", "split", "group"))
        if split.lower() not in _TRAIN | _TEST:
            left_out.add(f"split {split}", f"row {number}")
            continue
        held_out = split.lower() in _TEST
        if group and groups.setdefault(group, held_out) != held_out:
            raise DataError(f"{shown(path)}, row {number}: group {shown(group)} is in both splits; choose one")
        file = path.parent / named
        if not label:
            unlabelled += 1
        elif not file.is_file():
            left_out.add("no such file", f"row {number}: {named}")
        else:
            parts[held_out].append((file, class_name(label)))
    classes = tuple(sorted({label for part in parts.values() for _, label in part}))
    if len(classes) < 2 or not parts[False]:
        raise DataError(f"{shown(path)} has {len(classes)} classes with images for training; it needs two or more")
    meaning = Meaning(classes=classes, unlabelled=unlabelled, skipped=left_out.counted())
    train = _dataset(parts[False], settings, meaning)
    test = _dataset(parts[True], settings, Meaning(classes=classes)) if parts[True] else None
    if test is not None and (test.x.shape[1:], test.x.dtype) != (train.x.shape[1:], train.x.dtype):
        raise DataError(f"{shown(path)}: test images are {test.x.shape[1:]}, training images {train.x.shape[1:]}")
    return train, test, f"images listed in {shown(path.name)}"


def _dataset(files: list[tuple[Path, str]], settings: ImageFolderSettings, meaning: Meaning) -> Dataset:
    labels = {name: label for label, name in enumerate(meaning.classes)}
    pixels = images.decode_all([file for file, _ in files], settings.sides, settings.colour == "grey")
    return Dataset(pixels, np.array([labels[name] for _, name in files], np.int64), len(labels), meaning)


def _cell(rows: Rows, row: list[str], name: str) -> str:
    place = rows.columns.index(name) if name in rows.columns else len(row)
    return row[place].strip() if place < len(row) else ""
