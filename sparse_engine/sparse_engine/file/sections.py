"""The bytes of one sparse array: where its values stand, whichever way is shortest, and the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparse_engine.layers import ModelError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

Kind = Literal["whole", "bitmap", "gaps"]
Precision = Literal["fp32", "fp16"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}

FAR = 255  # a gap's byte that only moves on; any other ends the gap, and a value stands there
CHUNK = 1 << 16  # bytes of a bitmap that are unpacked at once


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """An array of ``shape`` that is zero but for ``values`` at the flat, ascending ``positions``."""

    shape: tuple[int, ...]
    positions: Ints
    values: Floats

    def dense(self) -> Floats:
        """The whole array."""
        found = np.zeros(int(np.prod(self.shape)), np.float32)
        found[self.positions] = self.values
        return found.reshape(self.shape)


def encode_positions(positions: Ints, size: int) -> tuple[Kind, bytes]:
    """Ascending positions in an array of that size; whichever kind is shortest.

    ``whole``: none, every entry has a value. ``bitmap``: one bit an entry, the first in the lowest bit of the first
    byte. ``gaps``: before every value, how many zeros there are since the one before: a byte 255 for each 255 of
    them and a last byte below that.
    """
    if len(positions) == size:
        return "whole", b""
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum(gaps // FAR + 1)
    count = int(ends[-1]) if len(ends) else 0
    if count > -(-size // 8):
        active = np.zeros(size, np.bool_)
        active[positions] = True
        return "bitmap", np.packbits(active, bitorder="little").tobytes()
    coded = np.full(count, FAR, np.uint8)
    coded[ends - 1] = gaps % FAR
    return "gaps", coded.tobytes()


def decode_positions(kind: Kind, coded: Bytes, count: int, size: int, name: str) -> Ints:
    """The ``count`` positions. Raises ``ModelError`` where the bytes hold more, fewer, or some past the end."""
    if kind == "whole":
        if count != size:
            raise _damaged(name, f"{count} values stand for all of its {size}")
        return np.arange(size, dtype=np.int64)
    positions = _of_gaps(coded, count, name) if kind == "gaps" else _of_bitmap(coded, count, name)
    if count and positions[-1] >= size:
        raise _damaged(name, f"position {positions[-1]} of {size}")
    return positions


def _of_gaps(coded: Bytes, count: int, name: str) -> Ints:
    ends = coded != FAR
    found = int(np.count_nonzero(ends))
    if found != count or (len(coded) and not ends[-1]):
        raise _damaged(name, f"{found} positions for {count} values")
    positions: Ints = np.cumsum(coded, dtype=np.int64)[ends] + np.arange(count, dtype=np.int64)
    return positions


def _of_bitmap(coded: Bytes, count: int, name: str) -> Ints:
    positions = np.empty(count, np.int64)
    done = 0
    for start in range(0, len(coded), CHUNK):
        found = np.flatnonzero(np.unpackbits(coded[start : start + CHUNK], bitorder="little"))
        if done + len(found) > count:
            raise _damaged(name, f"more than {count} positions for {count} values")
        positions[done : done + len(found)] = found + 8 * start
        done += len(found)
    if done != count:
        raise _damaged(name, f"{done} positions for {count} values")
    return positions


def encode_values(values: Floats, precision: Precision, name: str) -> bytes:
    """Little-endian numbers. Raises ``ModelError`` for one that is not finite, or too large for fp16."""
    if not np.isfinite(values).all():
        raise ModelError(f"{name} holds a number that is not finite; train the model anew")
    if precision == "fp16" and values.size and float(np.abs(values).max()) > float(np.finfo(np.float16).max):
        raise ModelError(f"{name} holds {float(np.abs(values).max()):.6g}, too large for fp16; write fp32")
    coded: bytes = values.astype(TYPES[precision]).tobytes()
    return coded


def decode_values(coded: Bytes, precision: Precision, name: str) -> Floats:
    """The numbers. Raises ``ModelError`` where one is not finite."""
    values: Floats = np.frombuffer(coded, TYPES[precision]).astype(np.float32)
    if not np.isfinite(values).all():
        raise _damaged(name, "a number that is not finite")
    return values


def _damaged(name: str, what: str) -> ModelError:
    return ModelError(f"damaged model file: array {name!r} has {what}; copy or export the file again")
