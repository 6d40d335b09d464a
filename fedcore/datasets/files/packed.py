"""gzip in so much memory: a file of a megabyte may claim to hold a thousand of them."""

from __future__ import annotations

import zlib

from tinyfleet.fedcore.errors import DataError

_GZIP = 16 + zlib.MAX_WBITS


def unpacked(packed: bytes, most: int) -> bytes:
    """What one gzip stream holds. Raises ``DataError`` where it is damaged, or holds more than ``most`` bytes."""
    stream = zlib.decompressobj(_GZIP)
    try:
        content = stream.decompress(packed, most + 1)
    except zlib.error as error:
        raise DataError(f"it is no gzip file, or damaged: {error}") from None
    if len(content) > most:
        raise DataError(f"it holds more than {most} bytes")
    if not stream.eof:
        raise DataError("it is cut short")
    return content
