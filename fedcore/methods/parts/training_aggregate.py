"""A training round's aggregate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, Mask
from tinyfleet.fedcore.methods.parts.checks import finite
from tinyfleet.fedcore.methods.parts.fixed_point import FixedPointSum, Summed, WeightedMean
from tinyfleet.fedcore.methods.parts.progressive import check_gradients
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload


class TrainFold:
    """Sample-weighted means of all arrays and of the loss, and sums of growth gradients.

    ``counts`` are the q_l that devices were asked for; a position that a device did not send counts
    as zero (FedTiny, section 3.3).
    """

    GRADIENT_BITS = 32  # resolution 2e-10
    # Batch norm makes the gradients of an empty filter ten thousand times larger than any other's. They are cut
    # to this: they still win their growth, and a sum over 2^20 samples holds them.
    GRADIENT_LIMIT = 2.0**10

    def __init__(self, graph: Graph, mask: Mask, counts: Mapping[str, int] | None = None) -> None:
        self.mask = mask
        self.counts = dict(counts or {})
        self.arrays = WeightedMean({name: spec.shape for name, spec in graph.params.items()})
        self._loss = FixedPointSum((), WeightedMean.BITS)
        self._gradients = {n: FixedPointSum(graph.params[n].shape, self.GRADIENT_BITS) for n in self.counts}

    @property
    def devices(self) -> int:
        return self.arrays.devices

    @property
    def loss(self) -> float:
        return float(self._loss.mean(self.arrays.weight))

    def gradients(self) -> dict[str, FloatArray]:
        """Weighted mean gradient of every layer that was asked for; zero where nobody sent any."""
        return {name: total.mean(self.arrays.weight) for name, total in self._gradients.items()}

    def add(self, result: Payload, weight: int) -> None:
        """Add one device's result, all or nothing. Raises ``ResultError`` where it does not fit the task."""
        check_gradients(result.gradients, self.counts, self.mask)
        arrays = self.arrays.prepare(result.params, weight)
        loss = self._loss.scaled("loss", np.array(finite(result.meta.get("loss"), "loss"), np.float32), weight)
        gradients = {
            name: (vector.positions, self._gradients[name].scaled(name, self._cut(vector.values), weight))
            for name, vector in result.gradients.items()
        }
        self.arrays.commit(arrays, weight)
        self._loss.commit(loss)
        for name, term in gradients.items():
            self._gradients[name].commit_at(*term)

    def load(
        self, arrays: Mapping[str, Summed], loss: Summed, gradients: Mapping[str, Summed], weight: int, devices: int
    ) -> None:
        """Be the aggregate that was summed elsewhere, where this one is empty."""
        self.arrays.load(arrays, weight, devices)
        self._loss.load(loss)
        for name, summed in gradients.items():
            self._gradients[name].load(summed)

    def _cut(self, values: FloatArray) -> FloatArray:
        return np.clip(values, -self.GRADIENT_LIMIT, self.GRADIENT_LIMIT)
