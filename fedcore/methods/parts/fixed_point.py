"""Weighted sums that come out bit-equal in any order of arrival: fixed point in int64.

A value v of a device with n samples adds round(v 2^bits) n. Integer addition is associative, so the
order of devices, a restart, or a different split into partial sums never changes a bit.

Values beyond ``LARGE`` are summed apart, with fewer fractional bits: behind an empty filter batch norm's
variance can pass 10^9, and a run must not end for it. Which sum a value goes to depends on the value alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Params
from tinyfleet.fedcore.errors import AggregationError, ResultError

LARGE = 2.0**12
COARSE_BITS = 8  # of the sum of larger values: half a millionth of the least of them


class Term(NamedTuple):
    """One device's part of a sum, and the sum's new bounds: no |entry| exceeds them."""

    fine: IntArray
    fine_bound: float
    coarse: IntArray | None  # of values beyond ``LARGE``; None: there are none
    coarse_bound: float


class Summed(NamedTuple):
    """Integers that were summed elsewhere, at flat positions of the sum (None: all of it)."""

    fine: IntArray
    coarse: IntArray | None
    support: IntArray | None


class FixedPointSum:
    """Sum of weighted arrays of one shape. ``add`` either adds wholly or raises, leaving the sum unchanged."""

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        self.bits = bits
        self._fine: IntArray = np.zeros(shape, np.int64)
        self._coarse: IntArray | None = None
        self._fine_bound = self._coarse_bound = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self._fine.shape

    def scaled(self, name: str, values: FloatArray, weight: int) -> Term:
        """``values`` in fixed point times ``weight``.

        Raises ``AggregationError`` where an entry of the sum could pass 2^62.
        """
        wide = values.astype(np.float64)
        peak = float(np.max(np.abs(wide), initial=0.0))
        coarse, coarse_bound = None, self._coarse_bound
        if not peak <= LARGE:  # a value that is no number goes on to the bound, which it fails
            large = np.where(np.abs(wide) <= LARGE, 0.0, wide)
            coarse_bound += (peak * 2.0**COARSE_BITS + 1.0) * weight
            self._check(name, peak, weight, coarse_bound)
            coarse = np.rint(large * 2.0**COARSE_BITS).astype(np.int64) * weight
            wide = wide - large
            peak = float(np.max(np.abs(wide), initial=0.0))
        fine_bound = self._fine_bound + (peak * 2.0**self.bits + 1.0) * weight
        self._check(name, peak, weight, fine_bound)
        return Term(np.rint(wide * 2.0**self.bits).astype(np.int64) * weight, fine_bound, coarse, coarse_bound)

    def _check(self, name: str, peak: float, weight: int, bound: float) -> None:
        if not bound < 2.0**62:
            raise AggregationError(
                f"{name}: |value| {peak:g} at weight {weight} overflows the sum over the devices; "
                "the device has diverged: lower the learning rate"
            )

    def add(self, name: str, values: FloatArray, weight: int) -> None:
        """Add ``weight`` times ``values`` (same shape)."""
        self.commit(self.scaled(name, values, weight))

    def commit(self, term: Term) -> None:
        """Take what ``scaled`` gave: cannot fail."""
        self._add(term, ...)

    def commit_at(self, positions: IntArray, term: Term) -> None:
        """The same at distinct flat positions; all others count as zero."""
        self._add(term, np.unravel_index(positions, self.shape))

    def load(self, summed: Summed) -> None:
        """Be the sum that was made elsewhere, where this one is empty: it is no sum to add to any more."""
        if summed.support is not None:
            self.commit_at(summed.support, Term(summed.fine, 0.0, summed.coarse, 0.0))
            return
        coarse = None if summed.coarse is None else summed.coarse.reshape(self.shape)
        self.commit(Term(summed.fine.reshape(self.shape), 0.0, coarse, 0.0))

    def _add(self, term: Term, where: Any) -> None:
        self._fine[where] += term.fine
        self._fine_bound = term.fine_bound
        if term.coarse is not None:
            if self._coarse is None:
                self._coarse = np.zeros(self.shape, np.int64)
            self._coarse[where] += term.coarse
            self._coarse_bound = term.coarse_bound

    def mean(self, total_weight: int | IntArray) -> FloatArray:
        """The sum divided by the total weight (or each entry by its own), as float32."""
        total = self._fine / (total_weight * 2.0**self.bits)
        if self._coarse is not None:
            total = total + self._coarse / (total_weight * 2.0**COARSE_BITS)
        quotient: FloatArray = np.asarray(total).astype(np.float32)
        return quotient


class WeightedMean:
    """Sample-weighted mean of named arrays over devices."""

    BITS = 32  # resolution 2e-10; the sum of ordinary values over all samples may reach 2^30

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._sums = {name: FixedPointSum(shape, self.BITS) for name, shape in shapes.items()}
        self.weight = 0
        self.devices = 0

    def add(self, params: Params, weight: int) -> None:
        """Add one device's arrays, all or nothing; errors as in ``prepare``."""
        self.commit(self.prepare(params, weight), weight)

    def prepare(self, params: Params, weight: int) -> dict[str, Term]:
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

    def commit(self, terms: dict[str, Term], weight: int) -> None:
        """Take what ``prepare`` gave: cannot fail."""
        for name, term in terms.items():
            self._sums[name].commit(term)
        self.weight += weight
        self.devices += 1

    def load(self, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        """Be the sums that were made elsewhere, where these are empty."""
        for name, total in self._sums.items():
            total.load(sums[name])
        self.weight, self.devices = weight, devices

    def mean(self) -> Params:
        """The mean of what was added. Raises ``ResultError`` where nothing was."""
        if not self.weight:
            raise ResultError("no result was folded: there is no mean")
        return {name: total.mean(self.weight) for name, total in self._sums.items()}
