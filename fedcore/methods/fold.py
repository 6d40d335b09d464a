"""Weighted sums that come out bit-equal in any order of arrival: fixed point in int64.

A value v of a device with n samples adds round(v 2^bits) n. Integer addition is associative, so the
order of devices, a restart, or a different split into partial sums never changes a bit.
"""

from __future__ import annotations

import numpy as np

from fedcore.arrays import FloatArray, IntArray, Params
from fedcore.errors import AggregationError, ResultError


class FixedPointSum:
    """Sum of weighted arrays of one shape. ``add`` either adds wholly or raises, leaving the sum unchanged."""

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        self.bits = bits
        self._sum: IntArray = np.zeros(shape, np.int64)
        self._bound = 0.0  # no |entry| of the sum exceeds this

    @property
    def shape(self) -> tuple[int, ...]:
        return self._sum.shape

    def scaled(self, name: str, values: FloatArray, weight: int) -> tuple[IntArray, float]:
        """``values`` in fixed point times ``weight``, and the sum's new bound.

        Raises ``AggregationError`` where an entry of the sum could pass 2^62.
        """
        peak = float(np.max(np.abs(values), initial=0.0))
        bound = self._bound + (peak * 2.0**self.bits + 1.0) * weight
        if not bound < 2.0**62:
            raise AggregationError(
                f"{name}: |value| {peak:g} at weight {weight} overflows a sum with {self.bits} fractional bits; "
                "the device has diverged: lower the learning rate"
            )
        return np.rint(values.astype(np.float64) * 2.0**self.bits).astype(np.int64) * weight, bound

    def add(self, name: str, values: FloatArray, weight: int) -> None:
        """Add ``weight`` times ``values`` (same shape)."""
        self.commit(*self.scaled(name, values, weight))

    def commit(self, scaled: IntArray, bound: float) -> None:
        """Take what ``scaled`` gave: cannot fail."""
        self._sum += scaled
        self._bound = bound

    def commit_at(self, positions: IntArray, scaled: IntArray, bound: float) -> None:
        """The same at distinct flat positions; all others count as zero."""
        self._sum.reshape(-1)[positions] += scaled
        self._bound = bound

    def mean(self, total_weight: int) -> FloatArray:
        """The sum divided by the total weight, as float32."""
        quotient: FloatArray = (self._sum / (float(total_weight) * 2.0**self.bits)).astype(np.float32)
        return quotient


class WeightedMean:
    """Sample-weighted mean of named arrays over devices."""

    BITS = 32  # resolution 2e-10; the sum over all samples may reach 2^30

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._sums = {name: FixedPointSum(shape, self.BITS) for name, shape in shapes.items()}
        self.weight = 0
        self.devices = 0

    def add(self, params: Params, weight: int) -> None:
        """Add one device's arrays, all or nothing; errors as in ``prepare``."""
        self.commit(self.prepare(params, weight), weight)

    def prepare(self, params: Params, weight: int) -> dict[str, tuple[IntArray, float]]:
        """Fixed-point terms of every array; changes nothing.

        Raises ``ResultError`` for missing, extra or misshapen arrays, ``AggregationError`` on overflow.
        """
        if params.keys() != self._sums.keys():
            odd = sorted(params.keys() ^ self._sums.keys())[:3]
            raise ResultError(f"result has the wrong arrays (first that differ: {', '.join(odd)})")
        for name, values in params.items():
            if values.shape != self._sums[name].shape:
                raise ResultError(f"{name} has shape {values.shape}, the task's has {self._sums[name].shape}")
        return {name: self._sums[name].scaled(name, values, weight) for name, values in params.items()}

    def commit(self, terms: dict[str, tuple[IntArray, float]], weight: int) -> None:
        """Take what ``prepare`` gave: cannot fail."""
        for name, (scaled, bound) in terms.items():
            self._sums[name].commit(scaled, bound)
        self.weight += weight
        self.devices += 1

    def mean(self) -> Params:
        """The mean of what was added. Raises ``ResultError`` where nothing was."""
        if not self.weight:
            raise ResultError("no result was folded: there is no mean")
        return {name: total.mean(self.weight) for name, total in self._sums.items()}
