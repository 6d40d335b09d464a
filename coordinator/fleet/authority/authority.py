"""The fleet's certificate authority, kept in a directory: index.db, a key and a certificate a generation.

``trust.crt`` (whom everybody trusts) and ``revoked.crl`` (for the broker) are made from the index after each
change, and again at the next opening where a power cut came between.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tinyfleet.coordinator.fleet.authority import rotation
from tinyfleet.coordinator.fleet.authority.errors import AuthorityError
from tinyfleet.coordinator.fleet.authority.index import (
    FILE_NAME,
    AuthorityRow,
    CertificateRow,
    CertificateState,
    Index,
    changing,
    make_index,
)
from tinyfleet.coordinator.fleet.authority.keys import (
    certificate_path,
    key_digest,
    key_path,
    make_signer,
    read_signer,
    refuse_loose,
    set_clock,
)
from tinyfleet.coordinator.fleet.authority.published import REVOKED, TRUST, publish
from tinyfleet.coordinator.fleet.authority.signing import (
    CERTIFICATE_DAYS,
    checked_hosts,
    sign_certificate,
)
from tinyfleet.fedcore.certificates.renewal import read_certificate
from tinyfleet.fedcore.certificates.request import key_pem, new_key, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import drop_temporaries, make_private, write_atomic

ISSUED = "issued"


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate in PEM; ``key`` is None where the holder made its own; ``trust`` is whom it trusts."""

    row: CertificateRow
    certificate: bytes
    key: bytes | None
    trust: bytes


class Authority:
    """See the module. Opening it raises ``ConfigError`` for loose permissions, ``AuthorityError`` for what is lost.

    Safe beside other processes: each operation is one transaction of the index. ``clock`` gives Unix seconds.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self.directory, self._clock = directory, clock
        try:
            there = (directory / FILE_NAME).exists()
        except PermissionError:
            raise ConfigError(f"{directory} belongs to another user; run this as its owner, or as root") from None
        if not there:
            raise AuthorityError(f"{directory} holds no certificate authority; make one: tinyfleet ca init")
        refuse_loose(directory)
        with self._changing() as index:
            drop_temporaries(directory)
            for row in index.authorities():
                path = certificate_path(directory, row.generation)
                if not path.exists():
                    raise AuthorityError(f"{path} is missing; restore the directory from a copy")
            publish(self.directory, index)

    @classmethod
    def make(cls, directory: Path, clock: Callable[[], float] = time.time) -> Authority:
        """A new authority in ``directory``, made with mode 0700. Raises ``AuthorityError`` where one is."""
        if (directory / FILE_NAME).exists():
            raise AuthorityError(
                f"{directory} holds an authority already (tinyfleet ca list); tinyfleet ca rotate replaces its key"
            )
        make_private(directory)
        if any(directory.iterdir()):
            raise ConfigError(
                f"{directory} is not empty; give a new directory, or remove what an interrupted init left there"
            )
        refuse_loose(directory)
        set_clock(clock())
        (directory / ISSUED).mkdir(mode=0o700)
        make_signer(directory, 1, clock())
        make_index(directory, clock())
        return cls(directory, clock)

    # -- what it tells ----------------------------------------------------------------------

    def now(self) -> float:
        """Unix seconds by the authority's clock."""
        return self._clock()

    @property
    def trust_path(self) -> Path:
        """Certificates of all trusted generations, the newest first: every client's tls_ca, the broker's cafile."""
        return self.directory / TRUST

    @property
    def revoked_path(self) -> Path:
        """A revocation list of each trusted generation: crlfile of the broker."""
        return self.directory / REVOKED

    def certificates(self, name: str | None = None) -> list[CertificateRow]:
        """All that were signed, or those of one name; by name, the newest first."""
        with self._changing() as index:
            return index.certificates(self._clock(), name)

    def authorities(self) -> list[tuple[AuthorityRow, str]]:
        """All generations, the newest first, each with the SHA-256 fingerprint of its certificate."""
        with self._changing() as index:
            rows = index.authorities()
        return [(row, _digest(read_certificate(certificate_path(self.directory, row.generation)))) for row in rows]

    # -- certificates -----------------------------------------------------------------------

    def issue(
        self,
        subject: Subject,
        *,
        request: bytes | None = None,
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
    ) -> Issued:
        """The first certificate of a name, for the key of ``request`` (PEM) or a new key.

        Raises ``AuthorityError`` where the name has one that is valid, ``ConfigError`` for a bad request.
        """
        with self._changing() as index:
            held = [row for row in index.certificates(self._clock(), subject.name) if row.usable]
            if held:
                raise AuthorityError(
                    f"{subject.name} has a valid certificate (serial {held[0].serial}); "
                    f"tinyfleet ca renew {subject.name}, or first tinyfleet ca revoke {subject.name}"
                )
            return self._sign(index, subject, request, hosts, days, confirmed=True)

    def renew(
        self,
        name: str,
        *,
        request: bytes | None = None,
        hosts: Sequence[str] = (),
        days: int = CERTIFICATE_DAYS,
        confirmed: bool = True,
    ) -> Issued:
        """Another certificate for a name that has a valid one, which stays valid too until it expires.

        Without ``confirmed`` it replaces the former only once ``confirm`` is called. A broker keeps its hosts
        unless others are given. Raises ``AuthorityError`` where the name has none.
        """
        with self._changing() as index:
            held = [row for row in index.certificates(self._clock(), name) if row.usable]
            if not held:
                raise AuthorityError(f"{name} has no valid certificate to renew; `tinyfleet ca issue {name}`")
            subject = Subject(held[0].role, name)
            return self._sign(index, subject, request, hosts or held[0].hosts, days, confirmed=confirmed)

    def confirm(self, name: str, serial: str) -> None:
        """The holder has the certificate and uses it. Raises ``AuthorityError`` for another's serial."""
        with self._changing() as index:
            states = {row.serial: row.state for row in index.certificates(self._clock(), name)}
            if serial not in states:
                raise AuthorityError(f"{name} has no certificate of serial {serial}")
            if states[serial] is CertificateState.OFFERED:
                index.confirm(serial)

    def revoke(self, name: str, reason: str = "", serial: str | None = None) -> list[CertificateRow]:
        """Revoke all valid certificates of a name, or one; the list for the broker is on disk when this returns.

        Raises ``AuthorityError`` where there is none.
        """
        with self._changing() as index:
            rows = [
                row
                for row in index.certificates(self._clock(), name)
                if row.usable and serial in (None, row.serial)
            ]
            if not rows:
                which = f"{name} has no valid certificate" + ("" if serial is None else f" of serial {serial}")
                raise AuthorityError(f"{which}; `tinyfleet ca list` shows what was issued")
            for row in rows:
                index.revoke(row.serial, self._clock(), reason)
            for generation in {row.generation for row in rows}:
                index.advance_list(generation)
            revoked = {row.serial for row in rows}
            after = [row for row in index.certificates(self._clock(), name) if row.serial in revoked]
        self._refresh()
        return after

    def read_issued(self, serial: str) -> x509.Certificate:
        """A certificate that was signed here."""
        return read_certificate(self.directory / ISSUED / f"{serial}.crt")

    # -- rotation ---------------------------------------------------------------------------

    def rotate(self) -> int:
        """Make the next generation; both are trusted until ``retire``. Returns its number.

        Raises ``AuthorityError`` while a rotation is under way.
        """
        set_clock(self._clock())
        with self._changing() as index:
            generation = rotation.begin(self.directory, index, self._clock())
        self._refresh()
        return generation

    def retire(self, *, force: bool = False) -> int:
        """Trust the newest generation only; what is of the older is void. Returns the retired generation.

        Raises ``AuthorityError`` where there is no older one, and, without ``force``, while certificates of it are
        the latest that their holders have.
        """
        with self._changing() as index:
            old = rotation.end(index, self._clock(), force=force)
        self._refresh()
        key_path(self.directory, old).unlink(missing_ok=True)
        return old

    def behind(self, name: str) -> bool:
        """Whether a name should renew before it is due: not all that its holder trusts and uses is up to date.

        True while its latest certificate is of an older authority, or came with one that was retired since.
        """
        with self._changing() as index:
            return name in rotation.behind(index, self._clock(), name)

    def all_behind(self) -> set[str]:
        """All names for which ``behind`` is true."""
        with self._changing() as index:
            return rotation.behind(index, self._clock())

    # -- inside -----------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Index]:
        try:
            with changing(self.directory) as index:
                yield index
        except sqlite3.Error as error:
            raise AuthorityError(
                f"{self.directory / FILE_NAME}: {error}; restore the directory from a copy"
            ) from error
        except OSError as error:
            raise AuthorityError(f"{self.directory}: {error}; nothing was changed") from error

    def _sign(
        self,
        index: Index,
        subject: Subject,
        request: bytes | None,
        hosts: Sequence[str],
        days: int,
        *,
        confirmed: bool,
    ) -> Issued:
        if hosts and subject.role is not CertificateRole.BROKER:
            raise ConfigError(f"hosts are for the broker's certificate; {subject.name} is a {subject.role.value}")
        checked = checked_hosts(hosts) if subject.role is CertificateRole.BROKER else ()
        now = self._clock()
        set_clock(now)
        key = new_key() if request is None else None
        public_key = key.public_key() if key is not None else read_request(request or b"", subject)
        publish(self.directory, index)  # another process may be about to
        generation = rotation.issuer(index, subject, now)
        end = datetime.fromtimestamp(now, UTC) + timedelta(days=days)
        certificate = sign_certificate(read_signer(self.directory, generation), subject, public_key, checked, end)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        row = CertificateRow(
            subject.name,
            subject.role,
            f"{certificate.serial_number:x}",
            _digest(certificate),
            key_digest(public_key),
            generation,
            checked,
            now,
            certificate.not_valid_before_utc.timestamp(),
            certificate.not_valid_after_utc.timestamp(),
            None,
            "",
            CertificateState.ACTIVE if confirmed else CertificateState.OFFERED,
        )
        write_atomic(self.directory / ISSUED / f"{row.serial}.crt", pem)
        index.add_certificate(row, confirmed=confirmed)
        return Issued(row, pem, None if key is None else key_pem(key), self.trust_path.read_bytes())

    def _refresh(self) -> None:
        """Write what is made from the index as it is now: after the change is on disk, alone."""
        with self._changing() as index:
            publish(self.directory, index)


def _digest(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()
