"""The vectors that are summed: segments of signed integers, each as narrow on the wire as its sum allows.

Devices add masks modulo 2^64 and send the low ``bits`` of every word: a sum of so many low bits has the right low
bits, and the sum itself fits into them. So nothing is rounded, and a narrow ring costs no exactness.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyfleet.fedcore.arrays import IntArray
from tinyfleet.fedcore.secure_sum.errors import OutOfReach, SecureSumError

Words = NDArray[np.uint64]
"""Elements of the ring of integers modulo 2^64."""

_BLOCK = 1 << 16  # words that are packed at once; a multiple of 8, so that blocks end at whole bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """``size`` integers, multiples of 2^shift, whose sum over the devices is below 2^(bits - 1 + shift)."""

    name: str
    size: int
    bits: int
    shift: int = 0

    @property
    def packed_bytes(self) -> int:
        return -(-self.size * self.bits // 8)


@dataclass(frozen=True, slots=True)
class Layout:
    """Segments one after the other: the same on all sides, for it follows from what all know."""

    segments: tuple[Segment, ...]

    @property
    def size(self) -> int:
        """Words of a vector."""
        return sum(segment.size for segment in self.segments)

    @property
    def packed_bytes(self) -> int:
        """Bytes of a vector as it travels."""
        return sum(segment.packed_bytes for segment in self.segments)

    def parts(self, words: Words) -> Iterator[tuple[Segment, Words]]:
        """Each segment with its view of ``words``."""
        start = 0
        for segment in self.segments:
            yield segment, words[start : start + segment.size]
            start += segment.size

    # -- integers and words -------------------------------------------------------------

    def words(self, integers: Mapping[str, IntArray]) -> Words:
        """One device's vector. Raises ``OutOfReach`` where a term is no multiple, or is beyond its segment."""
        words = np.empty(self.size, np.uint64)
        for segment, part in self.parts(words):
            values = integers[segment.name].reshape(-1)
            scaled = values >> segment.shift
            if bool(((scaled << segment.shift) != values).any()):
                raise OutOfReach(f"{segment.name}: a value is finer than its segment, 2^{segment.shift}")
            limit = 1 << (segment.bits - 1)
            if bool(((scaled >= limit) | (scaled < -limit)).any()) if segment.bits < 64 else False:
                raise OutOfReach(f"{segment.name}: a value is beyond its segment of {segment.bits} bits")
            part[:] = scaled.view(np.uint64)
        return words

    def integers(self, words: Words) -> dict[str, IntArray]:
        """What ``words`` stand for, by segment."""
        found: dict[str, IntArray] = {}
        for segment, part in self.parts(words):
            spare = np.uint64(64 - segment.bits)
            signed = (part << spare).view(np.int64) >> np.int64(64 - segment.bits)  # its sign fills the high bits
            found[segment.name] = signed << np.int64(segment.shift)
        return found

    # -- the wire -----------------------------------------------------------------------

    def pack(self, words: Words) -> bytes:
        """The low bits of every word."""
        return b"".join(
            _packed(part[start : start + _BLOCK], segment.bits)
            for segment, part in self.parts(words)
            for start in range(0, segment.size, _BLOCK)
        )

    def unpack(self, packed: bytes) -> Words:
        """Words whose high bits are zero. Raises ``SecureSumError`` for another size, before it allocates."""
        if len(packed) != self.packed_bytes:
            raise SecureSumError(f"a masked vector of {len(packed)} bytes; this exchange's has {self.packed_bytes}")
        data = np.frombuffer(packed, np.uint8)
        words = np.empty(self.size, np.uint64)
        at = 0
        for segment, part in self.parts(words):
            for start in range(0, segment.size, _BLOCK):
                block = part[start : start + _BLOCK]
                end = at + -(-len(block) * segment.bits // 8)
                block[:] = _unpacked(data[at:end], len(block), segment.bits)
                at = end
        return words


def _packed(words: Words, bits: int) -> bytes:
    little = np.ascontiguousarray(words.astype("<u8", copy=False)).view(np.uint8).reshape(-1, 8)
    if bits % 8 == 0:
        return little[:, : bits // 8].tobytes()
    one_by_one = np.unpackbits(little, axis=1, count=bits, bitorder="little")
    return np.packbits(one_by_one.reshape(-1), bitorder="little").tobytes()


def _unpacked(data: np.ndarray[tuple[int], np.dtype[np.uint8]], count: int, bits: int) -> Words:
    little = np.zeros((count, 8), np.uint8)
    if bits % 8 == 0:
        little[:, : bits // 8] = data.reshape(count, bits // 8)
    else:
        one_by_one = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
        packed = np.packbits(one_by_one, axis=1, bitorder="little")
        little[:, : packed.shape[1]] = packed
    words: Words = little.view("<u8").reshape(count).astype(np.uint64)
    return words
