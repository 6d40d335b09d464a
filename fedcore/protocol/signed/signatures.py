"""Keys, signatures, and the fingerprints by which people compare keys."""

from __future__ import annotations

import base64
import binascii
import hashlib

from tinyfleet.fedcore.protocol.signed.libcrypto import KEY_BYTES, SIGNATURE_BYTES, ed25519

SEED_BYTES = 32
FLEET_ID_DIGITS = 32
_SHORT_DIGITS = 16  # 64 bits: nobody makes a key with the same ones to order within a fleet's life
_GROUP = 4

_ed25519 = ed25519()


class SigningKey:
    """A private key, made from its seed of 32 bytes; ``public`` is the raw public key. Raises ``ValueError``."""

    __slots__ = ("_seed", "public")

    def __init__(self, seed: bytes) -> None:
        self.public, self._seed = _ed25519.public(seed), seed

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return _ed25519.sign(self._seed, message)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """True where ``signature`` is the owner's of ``public`` for ``message``."""
    if len(public) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    return _ed25519.verify(public, message, signature)


def key_text(public: bytes) -> str:
    """A public key as it travels: base64."""
    return base64.b64encode(public).decode()


def key_bytes(text: str) -> bytes | None:
    """The raw public key; None where ``text`` is not one."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == KEY_BYTES else None


def fingerprint(public: bytes) -> str:
    """SHA-256 of a raw public key, 64 hex digits."""
    return hashlib.sha256(public).hexdigest()


def fleet_id(public: bytes) -> str:
    """What stands in every message of the fleet with that key: the first 32 digits of the key's fingerprint."""
    return fingerprint(public)[:FLEET_ID_DIGITS]


def shown(digits: str) -> str:
    """The start of a fingerprint or fleet id, short enough to compare by eye: ``1a2b-3c4d-5e6f-7a8b``."""
    return "-".join(digits[start : start + _GROUP] for start in range(0, _SHORT_DIGITS, _GROUP)).strip("-")
