"""Who this device is: an Ed25519 key pair made at first start and kept in the state directory."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.files import check_private, read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.signed.libcrypto import KEY_BYTES
from tinyfleet.fedcore.protocol.signed.signatures import (
    SEED_BYTES,
    SigningKey,
    fingerprint,
    key_bytes,
    key_text,
)

FILE_NAME = "identity.json"
_DEFAULT_PREFIX = "agent"
# PKCS #8 of an Ed25519 key (RFC 8410, section 7): all but the seed, which comes last.
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
PEM_BEGIN, PEM_END = "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"  # pragma: allowlist secret


class IdentityFile(msgspec.Struct, frozen=True):
    """The file: raw public key and PKCS #8 private key. Readable by its owner alone (mode 0600)."""

    public_key: str  # base64 of 32 bytes
    private_key: str  # PEM


@dataclass(frozen=True, slots=True)
class Identity:
    """``device`` is the topic name; ``public_key`` is base64; ``fingerprint`` is 64 hex digits of its SHA-256."""

    device: str
    public_key: str
    fingerprint: str
    key: SigningKey = field(repr=False, compare=False)

    @property
    def client_id(self) -> str:
        """MQTT client id: two boards that were given one name do not throw each other off the broker."""
        return f"{self.device[:50]}-{self.fingerprint[:8]}"


def of(key: SigningKey, name: str = "") -> Identity:
    """The identity of the owner of ``key``: called ``name``, or after its key."""
    digits = fingerprint(key.public)
    return Identity(name or f"{_DEFAULT_PREFIX}-{digits[:12]}", key_text(key.public), digits, key)


def obtain(state: Path, name: str = "") -> Identity:
    """The identity kept in ``state``, made first where there is none. Raises ``ConfigError``."""
    path = state / FILE_NAME
    if not path.exists():
        try:
            make(path)
        except OSError as error:
            raise ConfigError(f"{path}: the device key could not be made: {error.strerror}") from None
    return read(path, name)


def read(path: Path, name: str = "") -> Identity:
    """The identity in ``path``; the device is called ``name``, or after its key. Raises ``ConfigError``."""
    if not path.is_dir():
        check_private(path)
    try:
        file = read_document(read_file(path), IdentityFile)
        raw, key = key_bytes(file.public_key), SigningKey(_seed(file.private_key))
    except (OSError, CodecError, ValueError) as error:
        raise ConfigError(
            f"{path}: unreadable identity ({error}); restore it, or remove it for a new one"
        ) from None
    if raw is None or raw != key.public:
        raise ConfigError(
            f"{path}: the public key is not the {KEY_BYTES} bytes that belong to the private one; restore the "
            "file, or remove it for a new one"
        )
    return of(key, name)


def make(path: Path) -> None:
    """Make a key pair and write it. Raises ``OSError``."""
    write_atomic(path, msgspec.json.encode(file_of(os.urandom(SEED_BYTES))), mode=0o600)


def file_of(seed: bytes) -> IdentityFile:
    """The file of a private key's seed."""
    private = f"{PEM_BEGIN}\n{base64.b64encode(_PKCS8 + seed).decode()}\n{PEM_END}\n"
    return IdentityFile(key_text(SigningKey(seed).public), private)


def _seed(pem: str) -> bytes:
    """The private key's seed. Raises ``ValueError``."""
    body = pem.strip().removeprefix(PEM_BEGIN).removesuffix(PEM_END)
    der = base64.b64decode("".join(body.split()), validate=True)
    if len(der) != len(_PKCS8) + SEED_BYTES or not der.startswith(_PKCS8):
        raise ValueError("the private key is not one of Ed25519")
    return der[len(_PKCS8) :]
