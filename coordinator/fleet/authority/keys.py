"""The authority's directory: whose it is, who may read it, and the keys in it."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tinyfleet.coordinator.fleet.authority.signing import VALID_FROM, sign_authority
from tinyfleet.fedcore.certificates.renewal import read_certificate
from tinyfleet.fedcore.certificates.request import key_pem, new_key, read_key
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic

Signer = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]
"""An authority's key and its certificate."""


def refuse_loose(directory: Path) -> None:
    """Raises ``ConfigError`` where others than the owner may read the keys, or change what is in the directory."""
    if directory.is_symlink():
        raise ConfigError(f"{directory} is a link: keep the authority in a directory of its own; give that one")
    if _loose(directory):
        raise ConfigError(f"{directory}: others may look into the authority's directory; chmod 700 {directory}")
    for path in sorted(directory.glob("*.key")) + sorted(directory.glob("*.db*")):
        if _loose(path):
            raise ConfigError(f"{path}: others may read it; chmod 600 {path}")


def set_clock(now: float) -> None:
    """Raises ``ConfigError`` where this machine's clock was never set: what it signs would be wrong for ever."""
    if now < VALID_FROM.timestamp():
        today = time.strftime("%Y-%m-%d", time.gmtime(now))
        raise ConfigError(f"this machine's clock says {today}; set it before certificates are made")


def _loose(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def key_path(directory: Path, generation: int) -> Path:
    """The private key of a generation of the authority."""
    return directory / f"authority-{generation}.key"


def certificate_path(directory: Path, generation: int) -> Path:
    """Its certificate."""
    return directory / f"authority-{generation}.crt"


def make_signer(directory: Path, generation: int, now: float) -> None:
    """A generation's key (mode 0600) and its certificate, of a name that no other authority in the world has."""
    key = new_key()
    name = f"tinyfleet authority {generation} {key_digest(key.public_key())[:16]}"
    certificate = sign_authority(key, name, datetime.fromtimestamp(now, UTC))
    write_atomic(key_path(directory, generation), key_pem(key), mode=0o600)
    write_atomic(certificate_path(directory, generation), certificate.public_bytes(serialization.Encoding.PEM))
    if os.geteuid() == 0:  # by sudo: the key stays the owner's
        owner = directory.stat()
        os.chown(key_path(directory, generation), owner.st_uid, owner.st_gid)


def read_signer(directory: Path, generation: int) -> Signer:
    """A generation's key and certificate. Raises ``ConfigError``."""
    return read_key(key_path(directory, generation)), read_certificate(certificate_path(directory, generation))


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo), hex digits."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()
