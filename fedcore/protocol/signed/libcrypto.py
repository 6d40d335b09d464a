"""Ed25519 (RFC 8032) by the OpenSSL that Python's own ``hashlib`` has loaded already.

The agent's supervisor signs every message, and may not hold the 8 MB of ``cryptography``; this takes 0.1 MB.
Where Python has OpenSSL inside itself, so that its functions cannot be had, ``cryptography`` does it all the same.
The functions are of OpenSSL 1.1.1 and later (EVP_DigestSign(3), EVP_PKEY_new_raw_private_key(3)).
"""

from __future__ import annotations

import _hashlib  # noqa: F401 - loads libcrypto
import ctypes
from pathlib import Path
from typing import Any, Protocol

KEY_BYTES, SIGNATURE_BYTES = 32, 64
_ED25519 = 1087  # EVP_PKEY_ED25519 of OpenSSL's evp.h
_POINTER, _INT, _SIZE, _BYTES = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "EVP_PKEY_new_raw_private_key": (_POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    "EVP_PKEY_new_raw_public_key": (_POINTER, (_INT, _POINTER, _BYTES, _SIZE)),
    "EVP_PKEY_get_raw_public_key": (_INT, (_POINTER, _BYTES, _POINTER)),
    "EVP_PKEY_free": (None, (_POINTER,)),
    "EVP_MD_CTX_new": (_POINTER, ()),
    "EVP_MD_CTX_free": (None, (_POINTER,)),
    "EVP_DigestSignInit": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    "EVP_DigestSign": (_INT, (_POINTER, _BYTES, _POINTER, _BYTES, _SIZE)),
    "EVP_DigestVerifyInit": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER)),
    "EVP_DigestVerify": (_INT, (_POINTER, _BYTES, _SIZE, _BYTES, _SIZE)),
    "ERR_clear_error": (None, ()),
}


class Ed25519(Protocol):
    """Keys and signatures as bytes; ``seed`` is the private key of RFC 8032."""

    def public(self, seed: bytes) -> bytes: ...

    def sign(self, seed: bytes, message: bytes) -> bytes: ...

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool: ...


class OpenSsl:
    """By ``path``, a libcrypto that this process has loaded. Raises ``OSError``, ``AttributeError``."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        self._lib: Any = library
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments

    def public(self, seed: bytes) -> bytes:
        key = self._private(seed)
        try:
            out, size = ctypes.create_string_buffer(KEY_BYTES), _SIZE(KEY_BYTES)
            self._must(self._lib.EVP_PKEY_get_raw_public_key(key, out, ctypes.byref(size)))
            return out.raw
        finally:
            self._lib.EVP_PKEY_free(key)

    def sign(self, seed: bytes, message: bytes) -> bytes:
        key, context = self._private(seed), self._lib.EVP_MD_CTX_new()
        try:
            out, size = ctypes.create_string_buffer(SIGNATURE_BYTES), _SIZE(SIGNATURE_BYTES)
            self._must(self._lib.EVP_DigestSignInit(context, None, None, None, key))
            self._must(self._lib.EVP_DigestSign(context, out, ctypes.byref(size), message, len(message)))
            return out.raw
        finally:
            self._lib.EVP_MD_CTX_free(context)
            self._lib.EVP_PKEY_free(key)

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        key = self._lib.EVP_PKEY_new_raw_public_key(_ED25519, None, public, len(public))
        context = self._lib.EVP_MD_CTX_new()
        try:
            if not key or self._lib.EVP_DigestVerifyInit(context, None, None, None, key) != 1:
                return False
            size = len(signature)
            return bool(self._lib.EVP_DigestVerify(context, signature, size, message, len(message)) == 1)
        finally:
            self._lib.EVP_MD_CTX_free(context)
            self._lib.EVP_PKEY_free(key)
            self._lib.ERR_clear_error()  # what is left in it would be taken for an error of ssl

    def _private(self, seed: bytes) -> int:
        key: int | None = self._lib.EVP_PKEY_new_raw_private_key(_ED25519, None, seed, len(seed))
        if not key:
            self._lib.ERR_clear_error()
            raise ValueError(f"an Ed25519 private key has {KEY_BYTES} bytes, not {len(seed)}")
        return key

    def _must(self, result: int) -> None:
        if result != 1:
            self._lib.ERR_clear_error()
            raise RuntimeError("OpenSSL did not sign")  # a defect, or no memory


class Heavy:
    """By ``cryptography``."""

    def public(self, seed: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()

    def sign(self, seed: bytes, message: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(seed).sign(message)

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def ed25519(maps: Path = Path("/proc/self/maps")) -> Ed25519:
    """The lightest that there is. ``maps`` names the files that this process has loaded."""
    try:
        loaded = {line.split(maxsplit=5)[-1] for line in maps.read_text(encoding="utf-8").splitlines()}
        paths = sorted(path for path in loaded if Path(path).name.startswith("libcrypto"))
        return OpenSsl(paths[0]) if paths else Heavy()
    except (OSError, AttributeError):
        return Heavy()
