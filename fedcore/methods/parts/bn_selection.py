"""Adaptive batch-norm selection (FedTiny, section 3.2): which of C coarse masks suits the devices' data.

The candidates are magnitude masks of one pre-trained parent, so within a layer they are nested:
a candidate is no more than its number of weights a layer. The parent travels once, on the union of
all candidates; each side derives the same masks from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, Mask, Params
from tinyfleet.fedcore.datasets.dataset import Dataset, Normalization, batches
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.parts.fixed_point import FixedPointSum, Summed, WeightedMean
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.sparsity.allocation import ALLOCATIONS, candidate_counts
from tinyfleet.fedcore.sparsity.mask import magnitude_mask
from tinyfleet.fedcore.training.engine import Engine

Counts = dict[str, int]


def default_pool_size(density: float) -> int:
    """C = min(20, ceil(0.1 / d)), the pool size that the paper found best (C* = 0.1 / d), bounded."""
    return min(20, math.ceil(0.1 / density))


def draw_candidates(
    graph: Graph, density: float, size: int, seed: int, spread: float, allocation: str
) -> list[Counts]:
    """C vectors of layer counts; the first is the allocation's own, the others are drawn about it."""
    shapes = graph.maskable_shapes
    rng = np.random.default_rng([seed, 3])
    drawn = [candidate_counts(shapes, density, rng, spread, allocation) for _ in range(size - 1)]
    return [ALLOCATIONS[allocation](shapes, density), *drawn]


def union_counts(candidates: list[Counts]) -> Counts:
    """The largest count of each layer: nested masks have it as their union."""
    return {name: max(counts[name] for counts in candidates) for name in candidates[0]}


def candidates_of(entries: Any, graph: Graph) -> list[Counts]:
    """The candidates that a task's meta carries. Raises ``ResultError`` where they do not fit the graph."""
    sizes = {name: graph.params[name].size for name in graph.maskable}
    ok = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and entry.keys() == sizes.keys()
        and all(isinstance(count, int) and 0 < count <= sizes[name] for name, count in entry.items())
        for entry in entries
    )
    if not ok or not entries:
        raise ResultError("the task's candidates do not fit the model's maskable layers")
    return list(entries)


def statistic_name(candidate: int, name: str) -> str:
    """Name under which candidate number ``candidate``'s statistic travels."""
    return f"{candidate}/{name}"


# -- device -----------------------------------------------------------------------------


def measure_statistics(
    engine: Engine,
    graph: Graph,
    parent: Params,
    candidates: list[Counts],
    development: Dataset,
    normalization: Normalization,
    passes: int,
    batch: int,
    micro_batch: int,
) -> Params:
    """Batch-norm statistics of every candidate on the development set: forward passes only (step 4).

    One candidate is in memory at a time; nothing is kept for a backward pass.
    """
    found: Params = {}
    for index, counts in enumerate(candidates):
        engine.load(graph, dict(parent), magnitude_mask(parent, counts))
        for _ in range(passes):
            for x, _ in batches(development, batch, normalization):
                engine.update_statistics(x, micro_batch)
        params = engine.params()
        found |= {statistic_name(index, name): params[name] for name in graph.statistics}
    return found


def candidate_params(parent: Params, statistics: Params, index: int, graph: Graph) -> Params:
    """The parent's arrays with candidate ``index``'s batch-norm statistics."""
    params = dict(parent)
    params |= {name: statistics[statistic_name(index, name)] for name in graph.statistics}
    return params


def measure_losses(
    engine: Engine,
    graph: Graph,
    parent: Params,
    statistics: Params,
    candidates: list[Counts],
    development: Dataset,
    normalization: Normalization,
    batch: int,
) -> list[float]:
    """Mean loss of every candidate on the development set in evaluation mode, ``batch`` samples a pass (step 6)."""
    x = normalization(development.x)
    losses = []
    for index, counts in enumerate(candidates):
        params = candidate_params(parent, statistics, index, graph)
        engine.load(graph, params, magnitude_mask(parent, counts))
        losses.append(engine.evaluate(x, development.y, batch).loss)
    return losses


# -- coordinator ------------------------------------------------------------------------


class StatisticsFold:
    """Means over devices, weighted by development-set size, of every candidate's statistics (step 5).

    Squared means are summed along, for the law of total variance.
    """

    def __init__(self, graph: Graph, size: int) -> None:
        self._names = [statistic_name(c, name) for c in range(size) for name in graph.statistics]
        shapes = {n: graph.params[n.partition("/")[2]].shape for n in self._names}
        self._means = [name for name in self._names if name.endswith(".running_mean")]
        self._sums = WeightedMean(shapes | {f"{name}^2": shapes[name] for name in self._means})

    @property
    def devices(self) -> int:
        return self._sums.devices

    @property
    def weight(self) -> int:
        return self._sums.weight

    def add(self, statistics: Params, weight: int) -> None:
        """Add one device's. Raises ``ResultError`` for wrong names or a negative variance."""
        for name in self._names:
            if name.endswith(".running_var") and name in statistics and (statistics[name] < 0).any():
                raise ResultError(f"{name} has a negative variance")
        squares = {f"{name}^2": np.square(statistics[name]) for name in self._means if name in statistics}
        self._sums.add(statistics | squares, weight)

    def load(self, sums: Mapping[str, Summed], weight: int, devices: int) -> None:
        """Be the aggregate that was summed elsewhere, where this one is empty."""
        self._sums.load(sums, weight, devices)

    def mean(self, between_device_variance: bool) -> Params:
        """The aggregated statistics: var = sum w var, plus the variance of the means where asked."""
        mean = self._sums.mean()
        if between_device_variance:
            for name in self._means:
                between = np.maximum(mean[f"{name}^2"] - np.square(mean[name]), 0.0)
                mean[name.removesuffix("mean") + "var"] += between
        return {name: mean[name] for name in self._names}


class LossFold:
    """Weighted mean loss of every candidate over devices."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sum = FixedPointSum((size,), WeightedMean.BITS)
        self.weight = 0
        self.devices = 0

    def add(self, losses: Any, weight: int) -> None:
        """Add one device's C losses. Raises ``ResultError`` where they are not C finite numbers."""
        self._sum.add("losses", checked_losses(losses, self._size), weight)
        self.weight += weight
        self.devices += 1

    def load(self, summed: Summed, weight: int, devices: int) -> None:
        """Be the aggregate that was summed elsewhere, where this one is empty."""
        self._sum.load(summed)
        self.weight, self.devices = weight, devices

    def mean(self) -> list[float]:
        """Mean loss of every candidate. Raises ``ResultError`` where nothing was added."""
        if not self.weight:
            raise ResultError("no result was folded: there is no mean")
        return [float(loss) for loss in self._sum.mean(self.weight)]


def checked_losses(losses: Any, size: int) -> FloatArray:
    """One loss a candidate. Raises ``ResultError`` where they are not ``size`` finite numbers."""
    numbers = isinstance(losses, list) and all(
        isinstance(loss, int | float) and not isinstance(loss, bool) and math.isfinite(loss) for loss in losses
    )
    if not numbers or len(losses) != size:
        raise ResultError(f"losses are not {size} finite numbers")
    return np.asarray(losses, np.float32)


def winner_mask(parent: Params, candidates: list[Counts], losses: list[float]) -> tuple[int, Mask]:
    """The candidate with the lowest loss (the first of equals), and its mask (step 6)."""
    index = int(np.argmin(losses))
    return index, magnitude_mask(parent, candidates[index])
