"""The authority's key is replaced: old and new are trusted until every certificate is of the new one."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.coordinator.fleet.authority.errors import AuthorityError
from tinyfleet.coordinator.fleet.authority.index import CertificateState, Index
from tinyfleet.coordinator.fleet.authority.keys import make_signer
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject


def begin(directory: Path, index: Index, now: float) -> int:
    """Make the next generation; returns its number. Raises ``AuthorityError`` while a rotation is under way."""
    trusted = _trusted(index)
    if len(trusted) > 1:
        raise AuthorityError(
            f"a rotation is under way: authority {trusted[-1]} is still trusted; when tinyfleet ca list "
            "shows nothing active of it: tinyfleet ca rotate --retire"
        )
    generation = trusted[0] + 1
    make_signer(directory, generation, now)
    index.add_authority(generation, now)
    return generation


def end(index: Index, now: float, *, force: bool) -> int:
    """Retire the older generation; returns its number. Raises ``AuthorityError`` where it is needed, or none."""
    trusted = _trusted(index)
    if len(trusted) < 2:
        raise AuthorityError("there is no older authority to retire; first: tinyfleet ca rotate")
    old = trusted[-1]
    left = [
        row.name
        for row in index.certificates(now)
        if row.generation == old and row.state is CertificateState.ACTIVE
    ]
    if left and not force:
        names = ", ".join(left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
        raise AuthorityError(
            f"authority {old} is still needed by {names}; renew or revoke these first, or shut them out "
            "with --force"
        )
    index.retire(old, now)
    return old


def issuer(index: Index, subject: Subject, now: float) -> int:
    """The generation that signs: the newest, but for a broker the one that every client trusts already."""
    trusted = _trusted(index)
    if subject.role is not CertificateRole.BROKER or len(trusted) == 1:
        return trusted[0]
    waiting = any(
        row.generation == trusted[-1]
        for row in index.certificates(now)
        if row.state is CertificateState.ACTIVE and row.role is not CertificateRole.BROKER
    )
    return trusted[-1] if waiting else trusted[0]


def behind(index: Index, now: float, name: str | None = None) -> set[str]:
    """Those of all names, or of one, for whom ``Authority.behind`` is true."""
    authorities = index.authorities()
    retired = max((row.retired_at for row in authorities if row.retired_at is not None), default=0.0)
    return {
        row.name
        for row in index.certificates(now, name)  # at most one of a name is active
        if row.state is CertificateState.ACTIVE
        and (row.generation != authorities[0].generation or row.issued_at <= retired)
    }


def _trusted(index: Index) -> list[int]:
    """The newest first."""
    return [row.generation for row in index.authorities() if row.trusted]
