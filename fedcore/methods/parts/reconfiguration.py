"""PruneFL's reconfiguration (Jiang et al. 2022, section 4): which weights are worth their time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from tinyfleet.fedcore.accounting import layer_flops
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.parts.checks import finite
from tinyfleet.fedcore.methods.parts.fixed_point import FixedPointSum
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.sparsity.global_mask import global_count, keep_largest
from tinyfleet.fedcore.sparsity.mask import active_counts, largest
from tinyfleet.fedcore.training.engine import Engine

SCALES = "square_scales"  # in a result's meta: what each layer's squares are to be multiplied with


def reconfigured(
    graph: Graph, squares: Params, params: Params, mask: Mask, density: float, protected: float = 0.0
) -> Mask:
    """The mask that the squared gradients of all maskable weights ask for; ``mask`` is the one so far.

    Time is counted in forward FLOPs: t_j of a weight is its layer's over the layer's size, c is the time of
    the layers that are never masked. At most ``density`` stays, and at least one weight a layer.
    The ``protected`` share of each layer's active weights, the largest, stays whatever its gradients (the
    authors' code: 0.7). Without it new weights at 0 replace all trained ones: batch norm makes the
    gradients of an empty filter hundreds of times larger than any other.
    """
    times = {name: layer_flops(graph, name) / graph.params[name].size for name in graph.maskable}
    rest = graph.flops() - sum(layer_flops(graph, name) for name in graph.maskable)
    most = global_count(squares, density)
    safe = _protected(graph, params, mask, most, protected)
    worth = sum(max(1, count) for count in worthwhile(squares, times, float(rest), safe).values())
    gains: Params = {
        name: np.where(safe[name], np.float32(np.inf), squares[name] / np.float32(times[name]))
        for name in graph.maskable
    }
    return keep_largest(gains, min(worth, most))


def _protected(graph: Graph, params: Params, mask: Mask, most: int, share: float) -> Mask:
    """The largest ``share`` of each layer's active weights; of fewer where more than ``most`` are active."""
    active = {name: mask.get(name, np.ones(graph.params[name].shape, np.bool_)) for name in graph.maskable}
    counts = active_counts(active)
    share *= min(1.0, most / sum(counts.values()))
    safe: Mask = {}
    for name, on in active.items():
        positions = np.flatnonzero(on)
        kept = largest(params[name].reshape(-1)[positions], positions, math.floor(share * counts[name]))
        safe[name] = np.isin(np.arange(on.size), kept).reshape(on.shape)
    return safe


def worthwhile(
    squares: Mapping[str, FloatArray], times: Mapping[str, float], rest: float, safe: Mask
) -> dict[str, int]:
    """Weights a layer that raise Gamma = sum g^2 / (c + sum t), added to ``safe`` by falling g^2 / t.

    The first whose own g^2 / t is below Gamma of those before it stops the search (PruneFL, theorem 1). c is
    ``rest``; squares of weights that are never masked do not travel and count as zero.
    """
    gain = np.concatenate([squares[name].reshape(-1) for name in times]).astype(np.float64)
    time = np.concatenate([np.full(squares[name].size, times[name]) for name in times])
    layer = np.repeat(np.arange(len(times)), [squares[name].size for name in times])
    kept = np.concatenate([safe[name].reshape(-1) for name in times])
    order = np.flatnonzero(~kept)
    order = order[np.argsort(-(gain / time)[order], kind="stable")]
    gained = np.cumsum(np.concatenate([[gain[kept].sum()], gain[order]]))[:-1]
    spent = np.cumsum(np.concatenate([[rest + time[kept].sum()], time[order]]))[:-1]
    stops = np.flatnonzero(gain[order] / time[order] < gained / np.maximum(spent, np.finfo(np.float64).tiny))
    added = order[: stops[0]] if len(stops) else order
    counts = np.bincount(layer[kept], minlength=len(times)) + np.bincount(layer[added], minlength=len(times))
    return dict(zip(times, counts.tolist(), strict=True))


# -- what devices upload for it -----------------------------------------------------------


def mean_squares(
    engine: Engine, graph: Graph, data: Iterable[tuple[FloatArray, IntArray]], micro_batch: int = 0
) -> Params:
    """Mean over the batches of every maskable weight's squared batch gradient, pruned ones included.

    Raises ``ResultError`` where one is not finite.
    """
    totals = {name: np.zeros(graph.params[name].shape, np.float32) for name in graph.maskable}
    count = 0
    for x, y in data:
        count += 1
        for name, gradient in _gradients(engine, graph, x, y, micro_batch).items():
            with np.errstate(over="ignore"):
                totals[name] += np.square(gradient)
    if not all(np.isfinite(total).all() for total in totals.values()):
        raise ResultError("a squared gradient is not finite: training has diverged; lower the learning rate")
    return {name: total / np.float32(count) for name, total in totals.items()}


def _gradients(engine: Engine, graph: Graph, x: FloatArray, y: IntArray, micro_batch: int) -> Params:
    """Gradients of one batch, in even parts of at most ``micro_batch`` samples (0: at once)."""
    parts = np.array_split(np.arange(len(y)), 1 if micro_batch <= 0 else -(-len(y) // micro_batch))
    totals = engine.dense_gradients(x[parts[0]], y[parts[0]], graph.maskable)
    if len(parts) == 1:
        return totals
    totals = {name: values * np.float32(len(parts[0]) / len(y)) for name, values in totals.items()}
    for part in parts[1:]:
        for name, values in engine.dense_gradients(x[part], y[part], graph.maskable).items():
            totals[name] += values * np.float32(len(part) / len(y))
    return totals


def packed(squares: Params) -> tuple[Params, dict[str, Json]]:
    """Squares as they travel, ``NAME^2`` in [0, 1], and the layers' scales for the result's meta.

    Squares may lie below all that fp16 holds, hence the scales (powers of two); flat arrays, because the
    codec never rounds those to 8 bits.
    """
    scales = {name: math.ldexp(1.0, math.frexp(float(v.max(initial=0.0)))[1]) for name, v in squares.items()}
    flat = {f"{name}^2": v.reshape(-1) / np.float32(scales[name]) for name, v in squares.items()}
    return flat, dict(scales)


class SquaresFold(TrainFold):
    """A training round's aggregate that also takes the mean of every device's squared gradients."""

    SQUARE_BITS = 28  # resolution 4e-9
    SQUARE_LIMIT = 2.0**12  # cut to this, for the same reason as gradients

    def __init__(self, graph: Graph, mask: Mask) -> None:
        super().__init__(graph, mask)
        self._shapes = graph.maskable_shapes
        self._squares = {
            name: FixedPointSum((math.prod(shape),), self.SQUARE_BITS) for name, shape in self._shapes.items()
        }

    def squares(self) -> Params:
        """Weighted mean of g^2 of every maskable weight, in the weight's shape."""
        return {
            name: total.mean(self.arrays.weight).reshape(self._shapes[name])
            for name, total in self._squares.items()
        }

    def add(self, result: Payload, weight: int) -> None:
        """All or nothing, squares included: raises ``ResultError`` where any are missing or negative."""
        terms = {
            name: total.scaled(f"{name}^2", self._unpacked(result, name), weight)
            for name, total in self._squares.items()
        }
        squares = {f"{name}^2" for name in terms}
        own = {name: values for name, values in result.params.items() if name not in squares}
        super().add(Payload(result.meta, own, result.mask, result.gradients), weight)
        for name, term in terms.items():
            self._squares[name].commit(term)

    def _unpacked(self, result: Payload, name: str) -> FloatArray:
        values, scales = result.params.get(f"{name}^2"), result.meta.get(SCALES)
        if values is None or not isinstance(scales, dict):
            raise ResultError(f"result lacks the squared gradients of {name}: this round's task asks for them")
        scale = finite(scales.get(name), f"scale of {name}^2")
        if values.shape != self._squares[name].shape or not (values >= 0).all() or scale <= 0:
            raise ResultError(
                f"{name}^2 must be {math.prod(self._shapes[name])} numbers from 0 up, with a scale above 0"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            unpacked: FloatArray = values * np.float32(scale)
        if not np.isfinite(unpacked).all():
            raise ResultError(f"{name}^2 is not finite: the device has diverged; lower the learning rate")
        return np.minimum(unpacked, np.float32(self.SQUARE_LIMIT))
