"""Rising positions as bytes: gaps in LEB128 variable-length integers, or a bitmap, without a Python loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyfleet.fedcore.arrays import BoolArray, IntArray
from tinyfleet.fedcore.errors import CodecError

Bytes = NDArray[np.uint8]
MAX_GAP_BYTES = 5  # 35 bits: no tensor here has more entries
MAX_SIZE = 1 << 34


def encode_gaps(positions: IntArray) -> Bytes:
    """Strictly rising positions as gaps less one, 7 bits a byte, low bits first."""
    gaps = np.diff(positions, prepend=-1) - 1
    lengths = np.ones(len(gaps), np.int64)
    for step in range(1, MAX_GAP_BYTES):
        lengths += gaps >= 1 << (7 * step)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), np.uint8)
    for step in range(MAX_GAP_BYTES):
        longer = np.flatnonzero(lengths > step)
        if not len(longer):
            break
        more = np.where(lengths[longer] > step + 1, 0x80, 0)
        out[starts[longer] + step] = (gaps[longer] >> (7 * step)) & 0x7F | more
    return out


def decode_gaps(data: Bytes, count: int, size: int) -> IntArray:
    """``count`` strictly rising positions below ``size``. Raises ``CodecError`` for anything else."""
    ends = np.flatnonzero(data < 0x80)
    if len(ends) != count or (len(data) and (not count or ends[-1] != len(data) - 1)):
        raise CodecError(f"{count} positions were announced, {len(ends)} are there")
    if not count:
        return np.empty(0, np.int64)
    lengths = np.diff(ends, prepend=-1)
    if int(lengths.max()) > MAX_GAP_BYTES:
        raise CodecError("a position gap is longer than any tensor")
    starts = ends - lengths + 1
    gaps = np.zeros(count, np.int64)
    for step in range(int(lengths.max())):
        longer = np.flatnonzero(lengths > step)
        gaps[longer] |= (data[starts[longer] + step].astype(np.int64) & 0x7F) << (7 * step)
    if int(gaps.max()) >= size:
        raise CodecError(f"a position lies outside its tensor of {size} entries")
    positions: IntArray = np.cumsum(gaps + 1) - 1
    if int(positions[-1]) >= size:
        raise CodecError(f"a position lies outside its tensor of {size} entries")
    return positions


def encode_bitmap(active: BoolArray) -> Bytes:
    """One bit an entry, low bit first."""
    return np.packbits(active.reshape(-1), bitorder="little")


def decode_bitmap(data: Bytes, size: int) -> BoolArray:
    """The flat mask of ``size`` entries. Raises ``CodecError`` where the length is wrong or a spare bit is set."""
    if len(data) != -(-size // 8):
        raise CodecError(f"bitmap of {len(data)} bytes for {size} entries")
    bits = np.unpackbits(data, bitorder="little")
    if bits[size:].any():
        raise CodecError("bitmap has bits beyond its tensor")
    return bits[:size].astype(np.bool_)
