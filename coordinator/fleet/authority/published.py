"""What the authority shows the world, made from its index: whom to trust, and what was revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tinyfleet.coordinator.fleet.authority.index import Index
from tinyfleet.coordinator.fleet.authority.keys import certificate_path, read_signer
from tinyfleet.coordinator.fleet.authority.signing import sign_revocations
from tinyfleet.fedcore.certificates.renewal import bundle, read_certificate
from tinyfleet.fedcore.files import write_atomic

TRUST, REVOKED = "trust.crt", "revoked.crl"


def publish(directory: Path, index: Index) -> None:
    """Write both files where they are not as the index says."""
    trusted = [row for row in index.authorities() if row.trusted]
    trust = bundle([read_certificate(certificate_path(directory, row.generation)) for row in trusted])
    if not (directory / TRUST).exists() or (directory / TRUST).read_bytes() != trust:
        write_atomic(directory / TRUST, trust)
    # Text before a PEM block is a comment: it says which lists these are.
    stamp = b"".join(b"authority %d list %d\n" % (row.generation, row.list_number) for row in trusted)
    path = directory / REVOKED
    if path.exists() and path.read_bytes().startswith(stamp + b"-"):
        return
    lists = [
        sign_revocations(
            read_signer(directory, row.generation),
            row.list_number,
            [(serial, datetime.fromtimestamp(at, UTC)) for serial, at in index.revoked(row.generation)],
        )
        for row in trusted
    ]
    write_atomic(path, stamp + b"".join(lists))
