"""A folder a class: ROOT/CLASS/** at any depth. What is left out is counted; a name with a dot first always is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinyfleet.fedcore.datasets.files.boundary import Leftovers, class_name, reading, shown
from tinyfleet.fedcore.errors import DataError

MOST_FILES = 1 << 20
MOST_DEEP = 32  # folders within a class's


def classes_of(root: Path) -> list[str]:
    """Names of the class folders, sorted. Raises ``DataError`` where they are fewer than two."""
    with reading(root, "a folder"):
        found = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(found) < 2:
        raise DataError(
            f"{shown(root)} has {len(found)} class folders; it needs two or more, each with the files of its class"
        )
    names = Counter(map(class_name, found))
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{shown(root)}: two folders are called {twice[0]}; merge them")
    return found


def class_files(
    root: Path, classes: Sequence[str], suffixes: frozenset[str], left_out: Leftovers
) -> list[tuple[Path, int]]:
    """(file, label) of every file that is read, in the order of classes and names.

    Raises ``DataError`` for a class that has files, none of which is read: it would be trained without a sample.
    """
    files: list[tuple[Path, int]] = []
    with reading(root, "a folder"):
        for entry in sorted(os.scandir(root), key=lambda one: one.name):
            if entry.name[0] != "." and entry.name not in classes:
                kind = (
                    "class folder that the training part lacks" if entry.is_dir() else "outside the class folders"
                )
                left_out.add(kind, entry.name)
    for label, name in enumerate(classes):
        if not (root / name).is_dir():
            continue
        unread: Counter[str] = Counter()
        count = len(files)
        for file in _walk(root / name, set(), 0):
            if len(files) >= MOST_FILES:
                raise DataError(f"{shown(root)} has more than {MOST_FILES} files; give fewer")
            suffix = file.suffix.lower()
            if file.name[0] == ".":
                left_out.add("hidden", _within(root, file))
            elif suffix not in suffixes:
                unread[suffix] += 1
                left_out.add(f"suffix {shown(suffix) or 'none'} is not read", _within(root, file))
            elif not file.is_file():  # to open a pipe would wait for ever
                left_out.add("no regular file", _within(root, file))
            else:
                files.append((file, label))
        if unread and len(files) == count:
            met = ", ".join(f"{n} x {shown(suffix) or 'no suffix'}" for suffix, n in unread.most_common(3))
            raise DataError(
                f"{shown(root)}: class {class_name(name)} has no file that is read ({met}); convert them to one of "
                f"{', '.join(sorted(suffixes))}, or remove the folder"
            )
    return files


def _within(root: Path, file: Path) -> str:
    return str(file.relative_to(root))


def _walk(folder: Path, above: set[tuple[int, int]], depth: int) -> Iterator[Path]:
    """Files in the order of their names, folders in their place; a link to a folder above is not followed again."""
    with reading(folder, "a folder"):
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda one: one.name)
    here = status.st_dev, status.st_ino
    if here in above:
        return
    if depth > MOST_DEEP:
        raise DataError(f"{shown(folder)} is nested more than {MOST_DEEP} deep")
    for entry in entries:
        if not entry.is_dir():
            yield Path(entry.path)
        elif entry.name[0] != ".":
            yield from _walk(Path(entry.path), above | {here}, depth + 1)
