"""Aggregates that some hostile devices cannot move far, in front of a method's own fold.

Each turns a step's admitted results into others, which the method then folds as ever: krum leaves some out, the
coordinate-wise ones give all results the same arrays. So every method whose devices share a mask has them all,
and what comes out depends on the set of results alone: they are taken in order of step and device.

``mean`` and ``clipped`` read one result at a time (clipped is a mean under a limit of one median); all others hold
the whole cohort, 4 bytes a parameter and device (the geometric median and krum 8 bytes of one array more).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, Params
from tinyfleet.fedcore.cohort.measure import LOSSES, Key
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.reconfiguration import SCALES
from tinyfleet.fedcore.payload import Json, Payload, SparseVector
from tinyfleet.fedcore.run_spec import FleetSettings

ITERATIONS = 32  # of Weiszfeld's algorithm, always all of them
STREAMED = ("mean", "clipped")
WHOLE = ("clipped", "krum", "multi-krum")  # these count a result with all of its weights, or not at all
SMOOTHING = 1e-6  # least distance that divides (Pillutla et al. 2022, RFA: nu)

Centre = Callable[[AnyArray, int], AnyArray]
"""(values of all devices along the first axis, hostile devices) -> one value a coordinate."""


def check_aggregate(fleet: FleetSettings, method: Method) -> None:
    """Raise ``ConfigError`` where the run's aggregate does not suit its method or its least cohort."""
    kind, least = fleet.aggregate, fleet.min_results
    if kind == "mean":
        return
    if method.own_masks and kind not in WHOLE:
        raise ConfigError(
            f"fleet.aggregate {kind!r} takes each weight from all devices, and with method {method.name} not all "
            f"hold it, since each has a mask of its own; use {', '.join(WHOLE)} or mean"
        )
    if fleet.cohort and fleet.cohort < least:
        raise ConfigError(f"fleet.cohort {fleet.cohort} is below fleet.min_results {least}; raise it")
    hostile = math.floor(fleet.hostile_share * least)
    needed = {"clipped": 1, "krum": 2 * hostile + 3, "multi-krum": 2 * hostile + 3}.get(kind, 3)
    if least < needed:
        raise ConfigError(
            f"fleet.aggregate {kind!r} with fleet.hostile_share {fleet.hostile_share:g} needs {needed} results a "
            f"step; fleet.min_results is {least}: raise it, or lower the share"
        )


def hostile_of(fleet: FleetSettings, count: int) -> int:
    """How many of so many results may be hostile; krum can tell no more than (count - 3) / 2 of them."""
    hostile = math.floor(fleet.hostile_share * count)
    return max(0, min(hostile, (count - 3) // 2)) if "krum" in fleet.aggregate else hostile


def robust(fleet: FleetSettings, task: Payload, admitted: Iterable[tuple[Key, Payload]]) -> Iterable[Payload]:
    """What the method is to fold instead of the ``admitted`` results. ``task`` is the step's."""
    if fleet.aggregate in STREAMED:
        return (result for _, result in admitted)
    cohort = [result for _, result in sorted(admitted, key=lambda entry: entry[0])]
    hostile = hostile_of(fleet, len(cohort))
    if not cohort:
        return cohort
    match fleet.aggregate:
        case "median":
            return _alike(cohort, hostile, median)
        case "trimmed":
            return _alike(cohort, hostile, trimmed_mean)
        case "geometric-median":
            return _alike(cohort, hostile, median, geometric_median([_weights(r, task) for r in cohort]))
    keep = 1 if fleet.aggregate == "krum" else len(cohort) - hostile
    chosen = krum([_weights(result, task) for result in cohort], hostile)[:keep]
    return [cohort[index] for index in sorted(chosen)]


# -- centres ----------------------------------------------------------------------------


def median(values: AnyArray, hostile: int) -> AnyArray:
    """Coordinate by coordinate (Yin et al. 2018)."""
    centre: AnyArray = np.median(values, axis=0)
    return centre


def trimmed_mean(values: AnyArray, hostile: int) -> AnyArray:
    """The mean of each coordinate without its ``hostile`` smallest and largest values (Yin et al. 2018)."""
    ordered = np.sort(values, axis=0)[hostile : len(values) - hostile]
    centre: AnyArray = ordered.astype(np.float64).mean(axis=0)
    return centre


def krum(cohort: Sequence[Params], hostile: int) -> list[int]:
    """All by rising sum of squared distances to their nearest ``count - hostile - 2`` (Blanchard et al. 2017)."""
    count = len(cohort)
    distances = np.zeros((count, count))
    for first in range(count):
        for second in range(first):
            distances[first, second] = distances[second, first] = _distance(cohort[first], cohort[second])
    nearest = np.sort(distances, axis=1)[:, 1 : 1 + max(1, count - hostile - 2)]
    return [int(index) for index in np.argsort(nearest.sum(axis=1), kind="stable")]


def geometric_median(cohort: Sequence[Params]) -> Params:
    """The point of the least sum of distances, by Weiszfeld's algorithm from the coordinate-wise median."""
    names = sorted(cohort[0])
    point = {name: np.median([one[name] for one in cohort], axis=0).astype(np.float64) for name in names}
    for _ in range(ITERATIONS):
        near = [1.0 / max(SMOOTHING, math.sqrt(_distance(one, point))) for one in cohort]
        total = math.fsum(near)
        point = {
            name: np.sum([(share / total) * one[name] for share, one in zip(near, cohort, strict=True)], axis=0)
            for name in names
        }
    return {name: values.astype(np.float32) for name, values in point.items()}


def _distance(first: Mapping[str, AnyArray], second: Mapping[str, AnyArray]) -> float:
    """Squared, over all arrays."""
    return sum(float(np.square(first[name] - second[name].astype(np.float64)).sum()) for name in sorted(first))


# -- results ----------------------------------------------------------------------------


def _weights(result: Payload, task: Payload) -> Params:
    """What distances are taken of: trained arrays, else all arrays (statistics of candidates), else the losses."""
    trained = {n: v for n, v in result.params.items() if n in task.params and not n.endswith(_STATISTICS)}
    if trained or result.params:
        return trained or result.params
    return {LOSSES: np.asarray(result.meta.get(LOSSES, [0.0]), np.float32)}


_STATISTICS = ("running_mean", "running_var")


def _alike(cohort: list[Payload], hostile: int, centre: Centre, given: Params | None = None) -> list[Payload]:
    """Every result with the cohort's centres in place of its own arrays, gradients and losses."""
    params: Params = {}
    scales: dict[str, float] = {}
    for name in cohort[0].params:
        values = [result.params[name] for result in cohort]
        if name.endswith("^2"):  # squared gradients travel with a scale of their own
            layer = name.removesuffix("^2")
            values = [v * np.float32(_scale(result, layer)) for v, result in zip(values, cohort, strict=True)]
        found = given[name] if given is not None and name in given else centre(np.stack(values), hostile)
        if name.endswith("^2"):
            scales[layer] = math.ldexp(1.0, math.frexp(float(found.max(initial=0.0)))[1])
            found = found / scales[layer]
        params[name] = found.astype(np.float32)
    meta: dict[str, Json] = {SCALES: dict(scales)} if scales else {}
    if LOSSES in cohort[0].meta:
        meta[LOSSES] = centre(np.array([result.meta[LOSSES] for result in cohort], np.float64), hostile).tolist()
    gradients = {name: _gradient(cohort, name, centre, hostile) for name in _asked(cohort)}
    return [Payload(result.meta | meta, params, result.mask, gradients or result.gradients) for result in cohort]


def _scale(result: Payload, layer: str) -> float:
    scales: Any = result.meta[SCALES]
    return float(scales[layer])


def _asked(cohort: list[Payload]) -> list[str]:
    """Layers of which gradients came; where none has a value they are votes, and stay each device's own."""
    valued = any(vector.values.any() for result in cohort for vector in result.gradients.values())
    return sorted({name for result in cohort for name in result.gradients}) if valued else []


def _gradient(cohort: list[Payload], name: str, centre: Centre, hostile: int) -> SparseVector:
    """The centre of a layer's growth gradients, the largest as many as a device may send; not sent is 0."""
    sent = [result.gradients[name] for result in cohort if name in result.gradients]
    where = np.unique(np.concatenate([vector.positions for vector in sent]))
    values: FloatArray = np.zeros((len(cohort), len(where)), np.float32)
    for row, result in zip(values, cohort, strict=True):
        if name in result.gradients:
            vector = result.gradients[name]
            row[np.searchsorted(where, vector.positions)] = vector.values
    found = centre(values, hostile).astype(np.float32)
    most = max(len(vector.positions) for vector in sent)
    kept = np.sort(np.argsort(-np.abs(found), kind="stable")[:most])
    return SparseVector(where[kept], found[kept])
