"""Keys: X25519 (RFC 7748) between two devices, HKDF-SHA256 (RFC 5869) for everything that is derived."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tinyfleet.fedcore.secure_sum.errors import SecureSumError

KEY_BYTES = 32


def derived(secret: bytes, info: bytes) -> bytes:
    """32 bytes of ``secret`` for the one purpose that ``info`` names."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def public_of(private: bytes) -> bytes:
    """The public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed(private: bytes, peer: bytes, info: bytes) -> bytes:
    """What the owners of two key pairs have in common, for the purpose ``info``.

    Raises ``SecureSumError`` where ``peer`` is no public key, or one of those that agree on nothing.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        raise SecureSumError(f"a peer's public key is none: {error}") from None
    return derived(shared, info)
