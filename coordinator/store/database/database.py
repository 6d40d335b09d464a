"""The SQLite file: connection, transactions, and rows that follow a state table."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.store.database.safekeeping import Safekeeping, kept, put_back_if_damaged
from tinyfleet.coordinator.store.database.schema import SCHEMA_VERSION, UPGRADES
from tinyfleet.fedcore.foreign.bounds import check_bounds
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.state_table import E, S, StateTable

log = logging.getLogger(__name__)

T = TypeVar("T")


class Database:
    """One connection. Every commit is on disk when it returns, except inside ``relaxed``."""

    def __init__(self, path: Path, *, mend: bool = False) -> None:
        """``mend``: this is the running service, and a damaged file may be replaced. On a disk that is read-only
        there is no writing; reading goes on.
        """
        self.path = path
        self._illegible: set[tuple[str, str]] = set()  # rows that the log has named
        self._safekeeping = Safekeeping(path)
        try:
            if mend:
                put_back_if_damaged(path)
            writable = os.access(path.parent, os.W_OK)
            self._connection = _connection(path) if writable else _reader(path)
            self._connection.row_factory = sqlite3.Row
            self._connection.text_factory = _text
            if writable:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._migrate()
        except (OSError, sqlite3.Error) as error:
            remedy = "is it a coordinator's state directory, and writable?"
            if kept(path).is_file():
                remedy = "the coordinator puts its own copy in the place of a damaged one when it starts"
            raise StoreError(f"{path}: {error}; {remedy}") from None

    def close(self) -> None:
        self._connection.close()

    def keep_copy(self) -> None:
        """A second copy on disk, as it is now."""
        self._safekeeping.keep(self._connection)

    def data_version(self) -> int:
        """Changes when another connection, of this process or another, has committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def legible(self, table: str, rows: Iterable[sqlite3.Row], make: Callable[[sqlite3.Row], T]) -> list[T]:
        """What ``make`` makes of each row. One that it cannot read is left out, and named in the log once.

        The first column of each row is its name.
        """
        found = []
        for row in rows:
            try:
                found.append(make(row))
            except Exception as error:  # noqa: BLE001 - a damaged row may break anything
                name = str(row[0])
                if (table, name) not in self._illegible:
                    self._illegible.add((table, name))
                    log.warning("the row of %s in %s cannot be read and is left out: %s", name, table, error)
        return found

    def write(self, sql: str, *values: object) -> int:
        """One statement; returns the number of rows it changed."""
        try:
            return self._connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; is the disk full or read-only?") from error

    def follow(
        self, name: str, table: StateTable[S, E], event: E, where: Mapping[str, object], **changes: object
    ) -> int:
        """Move the rows of table ``name`` along the event's arrow, with ``changes``; returns how many moved.

        Rows that are in a state without that arrow stay as they are, as ``StateTable.after`` has it.
        """
        sources, set_ = table.sources(event), {"state": table.target(event), **changes}
        return self.write(
            f"UPDATE {name} SET {', '.join(f'{column} = ?' for column in set_)}"  # noqa: S608 - names are ours
            f" WHERE {' AND '.join(f'{column} = ?' for column in where)}"
            f" AND state IN ({', '.join('?' * len(sources))})",
            *set_.values(),
            *where.values(),
            *sources,
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside, or none."""
        self.write("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.write("ROLLBACK")
            raise
        self.write("COMMIT")

    @contextmanager
    def relaxed(self) -> Iterator[None]:
        """A transaction that a power cut may undo (never damage): for presence and progress, which repeat."""
        self.write("PRAGMA synchronous = NORMAL")
        try:
            with self.transaction():
                yield
        finally:
            self.write("PRAGMA synchronous = FULL")

    def _migrate(self) -> None:
        """Create the tables in a new file, upgrade those of an older version; refuse what a newer one wrote."""
        with self.transaction():
            version = int(self.read("PRAGMA user_version")[0][0])
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema version {version}, this program knows {SCHEMA_VERSION}: "
                    "use the newer program, or another state directory"
                )
            for upgrade in UPGRADES[version:]:
                for statement in upgrade.split(";\n"):
                    if statement.strip():
                        self.write(statement)
            if version < SCHEMA_VERSION:
                self.write(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _connection(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10.0, isolation_level=None)


def _reader(path: Path) -> sqlite3.Connection:
    """Of a file whose folder cannot be written; without a log of writes beside it, as it stands."""
    for options in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, timeout=10.0)
        try:
            connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            connection.close()
        else:
            return connection
    raise sqlite3.OperationalError("it cannot be opened to be read")


def as_json(value: Any) -> str:
    """A column's value as JSON text."""
    return msgspec.json.encode(value).decode()


def from_json(text: str, kind: type[T], where: str) -> T:
    """A column's JSON text as what is written there. Raises ``CodecError``, whatever else it is."""
    data: T = read_document(text.encode("utf-8", "replace"), kind)
    check_bounds(data, where)
    return data


def _text(data: bytes) -> str:
    """A damaged text is shown as one; it does not hide the rows beside it."""
    return data.decode("utf-8", "replace")
