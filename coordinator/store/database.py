"""The SQLite file: schema, connection, transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyfleet.coordinator.errors import StoreError

_FIRST = """
CREATE TABLE devices (
  device TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  public_key TEXT NOT NULL,
  enrolment TEXT NOT NULL,
  session TEXT NOT NULL,
  online INTEGER NOT NULL,
  last_seen REAL NOT NULL,
  profile TEXT NOT NULL,
  health TEXT NOT NULL DEFAULT '{}',
  samples INTEGER NOT NULL,
  engines TEXT NOT NULL,
  memory_limit_bytes INTEGER NOT NULL,
  idle_rss_bytes INTEGER NOT NULL DEFAULT 0,
  peak_rss_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE runs (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  run TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  method TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  step INTEGER NOT NULL DEFAULT 0,
  round INTEGER NOT NULL DEFAULT 0,
  rounds INTEGER NOT NULL,
  created REAL NOT NULL,
  started REAL,
  finished REAL,
  spec TEXT NOT NULL,
  stop_requested INTEGER NOT NULL DEFAULT 0,
  state_sha256 TEXT
) STRICT;

CREATE TABLE steps (
  run TEXT NOT NULL REFERENCES runs (run),
  step INTEGER NOT NULL,
  stage TEXT NOT NULL,
  round INTEGER NOT NULL,
  state TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  base_sha256 TEXT NOT NULL,
  started REAL NOT NULL,
  finished REAL,
  duration_s REAL,
  overhead_s REAL,
  expected INTEGER NOT NULL,
  results INTEGER NOT NULL DEFAULT 0,
  lost TEXT NOT NULL DEFAULT '[]',
  loss REAL,
  accuracy REAL,
  test_loss REAL,
  test_accuracy REAL,
  density REAL,
  PRIMARY KEY (run, step)
) STRICT;

CREATE TABLE tasks (
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  device TEXT NOT NULL REFERENCES devices (device),
  state TEXT NOT NULL,
  reason TEXT NOT NULL DEFAULT '',
  micro_batch INTEGER NOT NULL DEFAULT 0,
  train_s REAL,
  task_s REAL,
  peak_rss_bytes INTEGER NOT NULL DEFAULT 0,
  bytes_up INTEGER,
  bytes_down INTEGER,
  engine TEXT NOT NULL DEFAULT '',
  retries INTEGER NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0,
  total INTEGER NOT NULL DEFAULT 0,
  result_sha256 TEXT,
  counted_in INTEGER,
  arrival INTEGER,
  PRIMARY KEY (run, step, device),
  FOREIGN KEY (run, step) REFERENCES steps (run, step)
) STRICT;

CREATE INDEX tasks_counted ON tasks (run, counted_in);
"""

_PARTS_OF_JOBS = """
ALTER TABLE tasks ADD COLUMN steps INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN keep REAL NOT NULL DEFAULT 1.0;
ALTER TABLE tasks ADD COLUMN wall_s REAL;
ALTER TABLE steps ADD COLUMN left_out TEXT NOT NULL DEFAULT '{}';

CREATE TABLE plans (
  device TEXT PRIMARY KEY REFERENCES devices (device),
  run TEXT NOT NULL,
  step INTEGER NOT NULL,
  part TEXT NOT NULL,
  chosen INTEGER NOT NULL,
  steps INTEGER NOT NULL,
  whole_steps INTEGER NOT NULL,
  keep REAL NOT NULL,
  predicted_s REAL,
  basis TEXT NOT NULL,
  reason TEXT NOT NULL
) STRICT;
"""

UPGRADES = (_FIRST, _PARTS_OF_JOBS)
"""What makes each version of the schema from the one before; a new file goes through all of them."""

SCHEMA_VERSION = len(UPGRADES)


class Database:
    """One connection. Every commit is on disk when it returns, except inside ``relaxed``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=10.0, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._migrate()
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}; is it a coordinator's state directory, and writable?") from None

    def close(self) -> None:
        self._connection.close()

    def data_version(self) -> int:
        """Changes when another connection, of this process or another, has committed."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def read(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """All rows of a query."""
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}") from error

    def write(self, sql: str, *values: object) -> int:
        """One statement; returns the number of rows it changed."""
        try:
            return self._connection.execute(sql, values).rowcount
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: {error}; is the disk full or read-only?") from error

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
