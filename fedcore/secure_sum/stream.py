"""Masks from seeds: ChaCha20's key stream (RFC 8439), fast on boards whose processor has no AES."""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from tinyfleet.fedcore.secure_sum.ring import Words

_BLOCK_WORDS = 1 << 17  # a mebibyte at a time: in the cache
_NONCE = bytes(16)  # every seed is of one use


def add_stream(words: Words, seed: bytes, *, subtract: bool = False) -> None:
    """Add the mask of ``seed`` (32 bytes) to ``words`` in place, or subtract it."""
    stream = Cipher(ChaCha20(seed, _NONCE), mode=None).encryptor()
    zeros = bytes(8 * min(len(words), _BLOCK_WORDS))
    for start in range(0, len(words), _BLOCK_WORDS):
        part = words[start : start + _BLOCK_WORDS]
        mask = np.frombuffer(stream.update(zeros[: 8 * len(part)]), "<u8")
        if subtract:
            part -= mask
        else:
            part += mask


def stream_bytes(seed: bytes, count: int) -> bytes:
    """The first ``count`` bytes of the mask of ``seed``."""
    return Cipher(ChaCha20(seed, _NONCE), mode=None).encryptor().update(bytes(count))
