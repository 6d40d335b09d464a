"""Buffers of a program and where they lie: one arena, planned before anything runs."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sparse_engine import _core


@dataclass(frozen=True, slots=True)
class Copy:
    """What a buffer holds instead of a tensor: its ``keep`` largest entries, or ``codes`` bits a value."""

    keep: float = 1.0
    half: bool = False
    codes: int = 0


@dataclass(eq=False, slots=True)
class Buffer:
    """A tensor of the program, or a ``copy`` of one.

    ``root`` is the buffer whose memory it shares under another shape.
    """

    channels: int
    height: int
    width: int
    root: Buffer | None = None
    first: int = -1  # operations between which it holds something
    last: int = -1
    offset: int = -1  # in floats
    packed: bool = False  # its memory has another shape too: no gaps between channels
    copy: Copy | None = None

    @property
    def values(self) -> int:
        """Of one sample."""
        return self.channels * self.height * self.width

    @property
    def storage(self) -> Buffer:
        return self if self.root is None else self.root.storage

    def used(self, operation: int) -> None:
        """It is read or written by the operation of that number."""
        storage = self.storage
        storage.first = operation if storage.first < 0 else storage.first
        storage.last = max(storage.last, operation)

    def floats(self, samples: int) -> int:
        """What it takes of the arena for so many samples."""
        if self.copy is None:
            floats = _core.tensor_floats(self.channels, self.height, self.width, samples, self.packed)
        else:
            shape = (self.channels, self.height, self.width)
            floats = _core.cache_floats(*shape, samples, self.copy.keep, self.copy.half, self.copy.codes)
        return -(-floats // _core.ALIGNMENT) * _core.ALIGNMENT


@dataclass(slots=True)
class MemoryPlan:
    """Where buffers lie. ``floats`` is what the arena needs for them, ``floor`` the most that is live at once."""

    floats: int = 0
    floor: int = 0
    buffers: list[Buffer] = field(default_factory=list)


def plan(buffers: Iterable[Buffer], samples: int) -> MemoryPlan:
    """Give every buffer an offset: each as low as those that live with it allow, in the best of several orders."""
    roots = [b for b in buffers if b.root is None and b.first >= 0]
    sizes = {b: b.floats(samples) for b in roots}
    orders: list[Callable[[Buffer], tuple[int, ...]]] = [
        lambda b: (-sizes[b], b.first),
        lambda b: (-sizes[b] * (b.last - b.first + 1), b.first),
        lambda b: (b.first - b.last, -sizes[b]),
        lambda b: (b.first, -sizes[b]),
    ]
    total, offsets = min((_place(sorted(roots, key=order), sizes) for order in orders), key=lambda found: found[0])
    for buffer, offset in offsets.items():
        buffer.offset = offset
    starts = {b.first for b in roots}
    floor = max((sum(sizes[b] for b in roots if b.first <= s <= b.last) for s in starts), default=0)
    return MemoryPlan(total, floor, roots)


def _place(buffers: list[Buffer], sizes: dict[Buffer, int]) -> tuple[int, dict[Buffer, int]]:
    """(floats in all, offsets) when buffers are placed in that order, each in the lowest gap."""
    offsets: dict[Buffer, int] = {}
    total = 0
    placed: list[Buffer] = []  # by offset
    for buffer in buffers:
        offset = 0
        for other in placed:
            if other.first > buffer.last or other.last < buffer.first:
                continue
            if offsets[other] - offset >= sizes[buffer]:
                break
            offset = max(offset, offsets[other] + sizes[other])
        offsets[buffer] = offset
        insort(placed, buffer, key=offsets.__getitem__)
        total = max(total, offset + sizes[buffer])
    return total, offsets
