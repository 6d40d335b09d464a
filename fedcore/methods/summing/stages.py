"""The sums of the steps that methods have in common: training, candidates' statistics, candidates' losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.parts.bn_selection import StatisticsFold, checked_losses, statistic_name
from tinyfleet.fedcore.methods.parts.checks import finite
from tinyfleet.fedcore.methods.parts.fixed_point import LARGE, Summed, WeightedMean
from tinyfleet.fedcore.methods.parts.progressive import check_gradients
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.methods.summing.summands import FP16_FRACTION_BITS, Summand
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.params import STATISTICS
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.values import travelled, travelled_scaled

LOSS = "loss"
GROWTH = "gradient of "
GROWTH_REACH = 2 * TrainFold.GRADIENT_LIMIT
MARGIN = 4.0  # a trained parameter may be so many times the largest of its array before the ring has to be wide


class TrainStage:
    """A training round: all arrays, at the active weights alone, the loss, and gradients of the weights to grow.

    Where weights grow, devices choose positions of their own; these are as private as values. So a growing round's
    vector has every pruned weight of the layers that are adjusted, zero where the device chose none.
    """

    def __init__(self, graph: Graph, task: Payload, counts: Mapping[str, int], precision: str) -> None:
        self._graph, self._task, self._counts, self._precision = graph, task, dict(counts), precision
        arrays = [self._array(name) for name in graph.params]
        growth = [
            Summand(GROWTH + name, len(where), TrainFold.GRADIENT_BITS, GROWTH_REACH, support=where)
            for name in self._counts
            for where in (np.flatnonzero(~task.mask[name]),)
        ]
        self.summands = (*arrays, Summand(LOSS, 1, WeightedMean.BITS), *growth)

    def _array(self, name: str) -> Summand:
        spec, active = self._graph.params[name], self._task.mask.get(name)
        support = None if active is None else np.flatnonzero(active)
        reach = LARGE
        if spec.role not in STATISTICS:
            peak = float(np.max(np.abs(self._task.params[name]), initial=0.0))
            reach = min(LARGE, 2.0 ** math.ceil(math.log2(max(1.0, MARGIN * peak))))
        size = spec.size if support is None else len(support)
        shift = shift_of(len(spec.shape), self._precision)
        return Summand(name, size, WeightedMean.BITS, reach, shift, support)

    def values(self, result: Payload) -> dict[str, FloatArray]:
        """Raises ``ResultError`` for other arrays than the task's, ``CodecError`` for what is not finite."""
        check_gradients(result.gradients, self._counts, self._task.mask)
        if result.params.keys() != self._graph.params.keys():
            raise ResultError("result has other arrays than its task")
        found: dict[str, FloatArray] = {}
        for one in self.summands[: len(self._graph.params)]:
            values = result.params[one.name]
            flat = values.reshape(-1) if one.support is None else values.reshape(-1)[one.support]
            found[one.name] = travelled(flat, values.ndim, self._precision)
        found[LOSS] = np.array([finite(result.meta.get("loss"), LOSS)], np.float32)
        for name in self._counts:
            found[GROWTH + name] = self._gradient(name, result)
        return found

    def _gradient(self, name: str, result: Payload) -> FloatArray:
        inactive = ~self._task.mask[name].reshape(-1)
        whole = np.zeros(inactive.size, np.float32)
        if name in result.gradients:
            where, values = result.gradients[name]
            limit = TrainFold.GRADIENT_LIMIT
            whole[where] = np.clip(travelled_scaled(values, self._precision), -limit, limit)
        chosen: FloatArray = whole[inactive]
        return chosen

    def fill(self, fold: TrainFold, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        fold.load(
            {name: sums[name] for name in self._graph.params},
            sums[LOSS],
            {name: sums[GROWTH + name] for name in self._counts},
            weight,
            devices,
        )


class StatisticsStage:
    """Every candidate's batch-norm statistics, and the squares of the means."""

    def __init__(self, graph: Graph, candidates: int, precision: str) -> None:
        self._precision = precision
        shapes = {statistic_name(c, n): graph.params[n].shape for c in range(candidates) for n in graph.statistics}
        own = [
            Summand(name, math.prod(shape), WeightedMean.BITS, shift=shift_of(len(shape), precision))
            for name, shape in shapes.items()
        ]
        self._dimensions = {name: len(shape) for name, shape in shapes.items()}
        squares = [
            Summand(f"{one.name}^2", one.size, one.bits) for one in own if one.name.endswith(".running_mean")
        ]
        self.summands = (*own, *squares)

    def values(self, result: Payload) -> dict[str, FloatArray]:
        """Raises ``ResultError`` for wrong names, ``CodecError`` for values that are not finite."""
        if result.params.keys() != self._dimensions.keys():
            raise ResultError("result has other statistics than its task's candidates")
        found = {
            name: travelled(values.reshape(-1), self._dimensions[name], self._precision)
            for name, values in result.params.items()
        }
        for one in self.summands[len(found) :]:
            found[one.name] = np.square(found[one.name.removesuffix("^2")])
        return found

    def fill(self, fold: StatisticsFold, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        fold.load(sums, weight, devices)


class LossStage:
    """One loss a candidate."""

    def __init__(self, candidates: int) -> None:
        self._candidates = candidates
        self.summands = (Summand(LOSS, candidates, WeightedMean.BITS),)

    def values(self, result: Payload) -> dict[str, FloatArray]:
        """Raises ``ResultError`` where there is not one finite loss a candidate."""
        return {LOSS: checked_losses(result.meta.get("losses"), self._candidates)}

    def fill(self, fold: Any, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        fold.load(sums[LOSS], weight, devices)


def shift_of(dimensions: int, precision: str) -> int:
    """By how many bits all terms of an array that travels like that are too fine: fp16 has no bits below 2^-24."""
    halves = precision == "fp16" or (precision == "int8" and dimensions < 2)
    return WeightedMean.BITS - FP16_FRACTION_BITS if halves else 0
