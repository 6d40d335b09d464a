"""A round's aggregate where every device trains under a mask of its own: each weight's mean over its holders."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import BoolArray, FloatArray, Mask, Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.parts.checks import finite
from tinyfleet.fedcore.methods.parts.fixed_point import FixedPointSum, WeightedMean
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.sparsity.mask import active_counts, largest


class HolderSum(FixedPointSum):
    """A weighted sum that also knows, position by position, the weight of those who added to it."""

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        super().__init__(shape, bits)
        self._weights = np.zeros(shape, np.int64)

    @property
    def held(self) -> BoolArray:
        """True where somebody held the position."""
        return self._weights > 0

    def hold(self, active: BoolArray, weight: int) -> None:
        """Count ``weight`` at the active positions: cannot fail."""
        self._weights[active] += weight

    def mean_over_holders(self, fallback: FloatArray) -> FloatArray:
        """Each position's mean over those who held it; ``fallback`` where nobody did."""
        mean: FloatArray = np.where(self.held, self.mean(np.maximum(self._weights, 1)), fallback)
        return mean


class HolderFold:
    """Sample-weighted means: of masked weights over their holders, of all else and of meta's numbers over all.

    A result's own mask must cover the same layers with ``least[name]`` to ``most[name]`` active weights each.
    """

    def __init__(
        self, graph: Graph, least: Mapping[str, int], most: Mapping[str, int], numbers: tuple[str, ...] = ("loss",)
    ) -> None:
        self._least, self._most = dict(least), dict(most)
        self._masked = {name: HolderSum(graph.params[name].shape, WeightedMean.BITS) for name in least}
        self._whole = WeightedMean({n: spec.shape for n, spec in graph.params.items() if n not in least})
        self._numbers = {key: FixedPointSum((), WeightedMean.BITS) for key in numbers}

    @property
    def devices(self) -> int:
        return self._whole.devices

    @property
    def weight(self) -> int:
        """Samples of all devices."""
        return self._whole.weight

    def number(self, key: str) -> float:
        """Weighted mean of one of meta's numbers."""
        return float(self._numbers[key].mean(self.weight))

    def held(self) -> Mask:
        """Per layer the weights that somebody held."""
        return {name: total.held for name, total in self._masked.items()}

    def mean(self, fallback: Params) -> Params:
        """All arrays; a weight that nobody held keeps ``fallback``'s. Raises ``ResultError`` without a result."""
        whole = self._whole.mean()
        masked = {name: total.mean_over_holders(fallback[name]) for name, total in self._masked.items()}
        return {name: masked[name] if name in masked else whole[name] for name in (*whole, *masked)}

    def add(self, result: Payload, weight: int) -> None:
        """Add one device's result, all or nothing. Raises ``ResultError`` where it does not fit."""
        self._check(result)
        others = {name: values for name, values in result.params.items() if name not in self._masked}
        whole = self._whole.prepare(others, weight)
        masked = {}
        for name, total in self._masked.items():
            kept = np.where(result.mask[name], result.params[name], np.float32(0.0))
            masked[name] = total.scaled(name, kept, weight)
        numbers = {}
        for key, total_number in self._numbers.items():
            value = np.array(finite(result.meta.get(key), key), np.float32)
            numbers[key] = total_number.scaled(key, value, weight)
        self._whole.commit(whole, weight)
        for name, term in masked.items():
            self._masked[name].commit(term)
            self._masked[name].hold(result.mask[name], weight)
        for key, number in numbers.items():
            self._numbers[key].commit(number)

    def _check(self, result: Payload) -> None:
        """Raise ``ResultError`` unless the own mask has the layers, shapes and counts that it may have."""
        if result.gradients:
            raise ResultError("gradients were not asked for")
        if result.mask.keys() != self._masked.keys():
            odd = sorted(result.mask.keys() ^ self._masked.keys())[:3]
            raise ResultError(f"the own mask has the wrong layers (first that differ: {', '.join(odd)})")
        for name, count in active_counts(result.mask).items():
            shape = self._masked[name].shape
            if name not in result.params:
                raise ResultError(f"{name} is masked and missing")
            if result.mask[name].shape != shape or result.params[name].shape != shape:
                odd_shapes = f"{result.params[name].shape} under a mask {result.mask[name].shape}"
                raise ResultError(f"{name} has shape {odd_shapes}, the task's has {shape}")
            if not self._least[name] <= count <= self._most[name]:
                allowed = f"{self._least[name]} to {self._most[name]}"
                raise ResultError(f"{name}: the own mask keeps {count} weights, {allowed} are allowed")


def prune_to(params: Params, held: Mask, counts: Mapping[str, int]) -> Mask:
    """Keep the ``counts[name]`` largest |weights| among the ``held`` ones, set all others to zero in place.

    Only held weights are candidates: one that happens to be zero still goes before one that nobody has.
    """
    mask: Mask = {}
    for name, count in counts.items():
        candidates = np.flatnonzero(held[name])
        kept = largest(params[name].reshape(-1)[candidates], candidates, count)
        if len(kept) != count:
            raise AssertionError(f"{name}: {len(kept)} weights are held, {count} are to be kept")
        active = np.zeros(params[name].size, np.bool_)
        active[kept] = True
        mask[name] = active.reshape(params[name].shape)
        params[name] = np.where(mask[name], params[name], np.float32(0.0))
    return mask
