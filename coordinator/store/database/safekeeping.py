"""A second copy of the database, for the day when the first is damaged: at most some steps are done again then."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tinyfleet.fedcore.files import make_room_for, make_usable, remove, sync_directory

log = logging.getLogger(__name__)

# A copy takes about 2 ms a megabyte, in which nothing else is done: a large database is copied less often.
SMALL_BYTES = 4 * 2**20
LARGE_EVERY_S = 60.0


class Safekeeping:
    """Copies one database to ``FILE.kept``; the copy is whole whenever it is there."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._kept_at: float | None = None

    def keep(self, connection: sqlite3.Connection) -> None:
        """Copy it as it is now. A disk that refuses costs the copy, and no more."""
        now = self._clock()
        recently = self._kept_at is not None and now - self._kept_at < LARGE_EVERY_S
        try:
            if recently and self._path.stat().st_size > SMALL_BYTES:
                return
            _copy(connection, kept(self._path))
            self._kept_at = now
        except (OSError, sqlite3.Error) as error:
            log.warning("%s cannot be written: %s; an earlier copy stays", kept(self._path), error)


def kept(path: Path) -> Path:
    """Where the copy of a database lies."""
    return path.with_name(f"{path.name}.kept")


def damaged(path: Path) -> Path:
    """Where one lies that was damaged, until somebody removes it."""
    return path.with_name(f"{path.name}.damaged")


def put_back_if_damaged(path: Path) -> None:
    """Before a database is opened: one that cannot be read is put aside, and its copy takes its place.

    Without a copy everything stays as it is, for whoever has a backup.
    """
    copy = kept(path)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        make_usable(path.with_name(name))
    for beside in ("-wal", "-shm"):
        make_room_for(path.with_name(path.name + beside))
    if not copy.is_file() or _is_sound(path) or not _is_sound(copy):
        return
    aside = damaged(path)
    remove(aside)
    if os.path.lexists(path):
        path.rename(aside)
    for beside in ("-wal", "-shm"):  # they are of the damaged one
        remove(path.with_name(path.name + beside))
    with closing(sqlite3.connect(copy)) as connection:
        _copy(connection, path)
    log.error(
        "%s is damaged and lies in %s now; the copy of the last finished step takes its place, and what came after "
        "it is done again",
        *(path, aside),
    )


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    """Whole or not at all."""
    unfinished = target.with_name(f".{target.name}.tmp")
    remove(unfinished)
    with closing(sqlite3.connect(unfinished)) as copy:
        connection.backup(copy)
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if target.is_dir():
        remove(target)
    unfinished.replace(target)
    sync_directory(target.parent)


def _is_sound(path: Path) -> bool:
    """Whether there is a database that can be read to its end, with tables in it."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=10.0)) as connection:
            checked = connection.execute("PRAGMA quick_check(1)").fetchall()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error:
        return False
    return [row[0] for row in checked] == ["ok"] and version > 0
