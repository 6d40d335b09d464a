"""What the authority has signed and what became of it: index.db, one transaction a change."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tinyfleet.fedcore.certificates.subject import CertificateRole
from tinyfleet.fedcore.files import sync_directory

FILE_NAME = "index.db"
_WAIT_S = 30.0  # for another process that is changing it
_TABLES = """
CREATE TABLE authorities (
  generation INTEGER PRIMARY KEY,
  made_at REAL NOT NULL,
  retired_at REAL,                 -- NULL: trusted
  list_number INTEGER NOT NULL     -- of its latest revocation list
) STRICT;
CREATE TABLE certificates (
  serial TEXT PRIMARY KEY,         -- hex digits
  role TEXT NOT NULL,
  name TEXT NOT NULL,
  generation INTEGER NOT NULL REFERENCES authorities,
  fingerprint TEXT NOT NULL,       -- SHA-256 of the certificate, hex digits
  key_digest TEXT NOT NULL,        -- SHA-256 of its public key, hex digits
  hosts TEXT NOT NULL,             -- of a broker, separated by spaces
  issued_at REAL NOT NULL,
  not_before REAL NOT NULL,
  not_after REAL NOT NULL,
  confirmed INTEGER NOT NULL,      -- 1: its holder has it
  revoked_at REAL,
  reason TEXT NOT NULL
) STRICT;
CREATE INDEX certificates_by_name ON certificates (name, issued_at);
PRAGMA user_version = 1;
"""


class CertificateState(StrEnum):
    """What a certificate is good for now."""

    ACTIVE = "active"
    """Valid, and the latest of its name that is known to have arrived."""
    OFFERED = "offered"
    """A renewal that its holder has not confirmed yet; as valid as the one before it."""
    REPLACED = "replaced"
    """Still valid, but its holder has confirmed a newer one."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    RETIRED = "retired"
    """Its authority is no longer trusted."""


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """One certificate. Times are Unix seconds; ``serial`` and ``fingerprint`` hex digits."""

    name: str
    role: CertificateRole
    serial: str
    fingerprint: str
    key_digest: str
    generation: int
    hosts: tuple[str, ...]
    issued_at: float
    not_before: float
    not_after: float
    revoked_at: float | None
    reason: str
    state: CertificateState

    @property
    def usable(self) -> bool:
        """Whether a broker lets its holder in."""
        return self.state in (CertificateState.ACTIVE, CertificateState.OFFERED, CertificateState.REPLACED)


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """One generation of the authority's own key."""

    generation: int
    made_at: float
    retired_at: float | None
    list_number: int

    @property
    def trusted(self) -> bool:
        """Whether what it signed is good."""
        return self.retired_at is None


class Index:
    """The database, inside one transaction that holds off every other process; see ``changing``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    # -- authorities ----------------------------------------------------------------------

    def authorities(self) -> list[AuthorityRow]:
        """All generations, the newest first."""
        rows = self._db.execute("SELECT * FROM authorities ORDER BY generation DESC")
        return [AuthorityRow(*row) for row in rows]

    def add_authority(self, generation: int, now: float) -> None:
        self._db.execute("INSERT INTO authorities VALUES (?, ?, NULL, 1)", (generation, now))

    def retire(self, generation: int, now: float) -> None:
        self._db.execute("UPDATE authorities SET retired_at = ? WHERE generation = ?", (now, generation))

    def advance_list(self, generation: int) -> None:
        """Its next revocation list has the next number."""
        self._db.execute("UPDATE authorities SET list_number = list_number + 1 WHERE generation = ?", (generation,))

    # -- certificates ---------------------------------------------------------------------

    def certificates(self, now: float, name: str | None = None) -> list[CertificateRow]:
        """All, or those of one name; by name, the newest first, each with its state at ``now``."""
        trusted = {row.generation for row in self.authorities() if row.trusted}
        rows = self._db.execute(
            # Without a name the second half of the condition is always true.
            "SELECT serial, role, name, generation, fingerprint, key_digest, hosts, issued_at, not_before, "
            "not_after, confirmed, revoked_at, reason FROM certificates WHERE name = ?1 OR ?1 IS NULL "
            "ORDER BY name, issued_at DESC, rowid DESC",
            (name,),
        )
        found: list[CertificateRow] = []
        replaced: set[str] = set()  # names of which a newer certificate has arrived
        for (
            serial,
            role,
            holder,
            generation,
            fingerprint,
            key,
            hosts,
            issued,
            start,
            end,
            confirmed,
            at,
            why,
        ) in rows:
            if at is not None:
                state = CertificateState.REVOKED
            elif generation not in trusted:
                state = CertificateState.RETIRED
            elif end <= now:
                state = CertificateState.EXPIRED
            elif holder in replaced:
                state = CertificateState.REPLACED
            else:
                state = CertificateState.ACTIVE if confirmed else CertificateState.OFFERED
            if state is CertificateState.ACTIVE:
                replaced.add(holder)
            found.append(
                CertificateRow(
                    holder, CertificateRole(role), serial, fingerprint, key, generation, tuple(hosts.split()),
                    issued, start, end, at, why, state,
                )
            )  # fmt: skip
        return found

    def revoked(self, generation: int) -> list[tuple[int, float]]:
        """(serial number, moment) of every certificate of that generation that was revoked."""
        rows = self._db.execute(
            "SELECT serial, revoked_at FROM certificates WHERE generation = ? AND revoked_at IS NOT NULL "
            "ORDER BY revoked_at, serial",
            (generation,),
        )
        return [(int(serial, 16), at) for serial, at in rows]

    def add_certificate(self, row: CertificateRow, *, confirmed: bool) -> None:
        self._db.execute(
            "INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, '')",
            (
                row.serial, row.role.value, row.name, row.generation, row.fingerprint, row.key_digest,
                " ".join(row.hosts), row.issued_at, row.not_before, row.not_after, int(confirmed),
            ),
        )  # fmt: skip

    def confirm(self, serial: str) -> None:
        self._db.execute("UPDATE certificates SET confirmed = 1 WHERE serial = ?", (serial,))

    def revoke(self, serial: str, now: float, reason: str) -> None:
        self._db.execute(
            "UPDATE certificates SET revoked_at = ?, reason = ? WHERE serial = ? AND revoked_at IS NULL",
            (now, reason, serial),
        )


def make_index(directory: Path, now: float) -> None:
    """An index.db of mode 0600 with the first authority in it, whole or not at all."""
    path, unfinished = directory / FILE_NAME, directory / f".{FILE_NAME}.tmp"
    os.close(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(unfinished)) as connection:
        connection.executescript(_TABLES)
        Index(connection).add_authority(1, now)
        connection.commit()
    unfinished.replace(path)
    sync_directory(directory)


@contextmanager
def changing(directory: Path) -> Iterator[Index]:
    """The index, alone until the block ends; an error inside undoes its changes. Raises ``sqlite3.Error``."""
    with closing(sqlite3.connect(directory / FILE_NAME, timeout=_WAIT_S, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Index(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
