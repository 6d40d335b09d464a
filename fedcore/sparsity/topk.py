"""Top-K over a stream of tiles in O(K) memory."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.sparsity.mask import largest


class StreamingTopK:
    """The ``count`` largest |values| of everything pushed, ties to the lower position, in a 2K buffer.

    A threshold rises as the buffer fills, so most of a later tile is dropped on sight. Equal to
    sorting the whole stream, whatever the order of the tiles.
    """

    def __init__(self, count: int) -> None:
        if count < 0:
            raise ValueError(f"count {count} is negative")
        self.count = count
        self._positions: IntArray = np.empty(0, np.int64)
        self._values: FloatArray = np.empty(0, np.float32)
        self._threshold = -1.0  # no |value| is below it: everything passes until K are held

    def push(self, positions: IntArray, values: FloatArray) -> None:
        """Offer values at distinct flat positions."""
        if not self.count:
            return
        passing = np.flatnonzero(np.abs(values) >= self._threshold)
        for start in range(0, len(passing), self.count):
            part = passing[start : start + self.count]
            self._positions = np.concatenate([self._positions, positions[part]])
            self._values = np.concatenate([self._values, values[part]])
            if len(self._positions) > self.count:
                self._shrink()

    def _shrink(self) -> None:
        order = np.argsort(self._positions)
        positions, values = self._positions[order], self._values[order]
        kept = np.searchsorted(positions, largest(values, positions, self.count))
        self._positions, self._values = positions[kept], values[kept]
        if len(kept):
            self._threshold = float(np.abs(self._values).min())

    def result(self) -> SparseVector:
        """The K held values by rising position (fewer where fewer were pushed)."""
        order = np.argsort(self._positions)
        return SparseVector(self._positions[order], self._values[order])
