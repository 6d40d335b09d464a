"""JSON documents that others wrote, or a worn card changed: one error, whatever is wrong with them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.shown import printable

T = TypeVar("T")

_SHOWN = 300  # characters of a reason


def read_document(data: bytes, kind: type[T]) -> T:
    """``data`` as ``kind``, a msgspec Struct or what its decoder takes. Raises ``CodecError``."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise CodecError(printable(str(error), _SHOWN)) from None
