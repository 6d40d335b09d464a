"""How far one result may move what a step comes to: what exceeds that is cut back, all else counts as it is.

A result has parts, each at a distance from where the step would stand without it:

- its update, array by array, from no change,
- its growth gradients and squared gradients, layer by layer, from 0,
- its batch-norm statistics, array by array, from the medians of the cohort,
- its candidates' losses, each device's without their mean, and the numbers that it reports, from the medians.

With weight and distance of the median device as units, no weight, no distance, and no product of the two is more
than ``influence``. What is cut back keeps its direction, and a result within the limits counts to the bit as if
there were none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, Params
from tinyfleet.fedcore.cohort.measure import FLOOR, LOSSES, NUMBERS, Key, Measured, cut, norm, square_scale
from tinyfleet.fedcore.methods.parts.checks import finite
from tinyfleet.fedcore.methods.parts.reconfiguration import SCALES
from tinyfleet.fedcore.models.layers.batch_norm import EPSILON
from tinyfleet.fedcore.payload import Json, Payload, SparseVector

LEAST_LIMITED = 5  # of fewer, honest devices hold most of the data often enough

Centres = Mapping[str, AnyArray]
"""Array -> where the cohort stands, in double precision."""

Distances = Mapping[str, float]
"""Array -> a result's distance from the centre."""

Factors = Mapping[str, float]
"""Array -> what is left of its distance, below 1; arrays that are not named keep all of theirs."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What counts of one result that exceeds its limits."""

    samples: int
    update: Factors = field(default_factory=dict)
    evidence: Factors = field(default_factory=dict)
    centred: Factors = field(default_factory=dict)  # of statistics, of ``LOSSES`` and of numbers
    centres: Centres = field(default_factory=dict)

    def cuts(self, measured: Measured) -> bool:
        """False where all of the result counts."""
        return self.samples < measured.samples or bool(self.update or self.evidence or self.centred)


def limits(cohort: Mapping[Key, Measured], influence: float) -> dict[Key, Limit]:
    """Of the results that exceed any limit, whatever the order of ``cohort``."""
    if len(cohort) < LEAST_LIMITED:
        return {}
    measured = list(cohort.values())
    most = max(1, math.floor(influence * statistics.median(one.samples for one in measured)))
    weights = [min(one.samples, most) for one in measured]
    floors = {name: statistics.median(one.floors.get(name, 0.0) for one in measured) for name in measured[0].floors}
    updates = _factors([one.moves for one in measured], floors, weights, influence)
    evidence = _factors([one.evidence for one in measured], {}, weights, influence)
    centres, units = _centres(measured)
    distances = [_from_centres(one, centres, units) for one in measured]
    room = {name: FLOOR * math.sqrt(centre.size) for name, centre in centres.items()}
    centred = _factors(distances, room, weights, influence)
    found = (Limit(*parts, centres) for parts in zip(weights, updates, evidence, centred, strict=True))
    return {key: limit for (key, one), limit in zip(cohort.items(), found, strict=True) if limit.cuts(one)}


def limited(task: Payload, result: Payload, limit: Limit) -> Payload:
    """What counts of ``result`` under ``limit``. Its arrays stay as they are: changed ones are new."""
    params = dict(result.params)
    meta: dict[str, Json] = dict(result.meta) | {"samples": limit.samples}
    gradients = dict(result.gradients)
    for name, factor in limit.update.items():
        before = task.params[name]
        moved = before + np.float32(factor) * (params[name] - before)
        params[name] = np.where(result.mask[name], moved, np.float32(0.0)) if name in result.mask else moved
    for name, factor in limit.evidence.items():
        if name in gradients:
            where, values = cut(gradients[name])
            gradients[name] = SparseVector(where, values * np.float32(factor))
        else:
            scales = meta.get(SCALES)
            known = scales if isinstance(scales, dict) else {}
            meta[SCALES] = known | {name.removesuffix("^2"): square_scale(result, name) * factor}
    for name, factor in limit.centred.items():
        centre = limit.centres[name]
        if name in NUMBERS:
            meta[name] = float(centre + factor * (finite(meta[name], name) - centre))
        elif name == LOSSES:
            losses = np.array(meta[LOSSES], np.float64)
            left = centre + factor * (losses - losses.mean() - centre)
            meta[LOSSES] = (losses.mean() + left).tolist()
        else:
            params[name] = (centre + factor * (params[name] - centre)).astype(np.float32)
    return Payload(meta, params, result.mask, gradients)


def _factors(
    distances: Sequence[Distances], floors: Distances, weights: Sequence[int], influence: float
) -> list[Factors]:
    """Each result's. A median below an array's floor counts as the floor: where all agree, a little is nothing."""
    found: list[dict[str, float]] = [{} for _ in distances]
    usual = statistics.median(weights)
    for name in sorted(set().union(*distances)):
        values = [one.get(name, 0.0) for one in distances]
        pulls = [weight * value for weight, value in zip(weights, values, strict=True)]
        floor = floors.get(name, 0.0)
        far = influence * max(floor, statistics.median(values))
        pull = influence * max(usual * floor, statistics.median(pulls))
        for factors, value, weight in zip(found, values, weights, strict=True):
            most = min(far, pull / weight)
            if value > most:
                factors[name] = most / value
    return list(found)


# -- what has its centre in the cohort ----------------------------------------------------


def _centres(cohort: Sequence[Measured]) -> tuple[Centres, Centres]:
    """Medians of what all results have in one shape (the fold refuses any other), and the units of distances.

    A mean's unit is the standard deviation, a variance's the median one, a loss's the median loss, a share's 1.
    """
    centres: dict[str, AnyArray] = {}
    units: dict[str, AnyArray] = {}
    for name in _alike([one.variances for one in cohort]):
        centres[name] = _median([one.variances[name] for one in cohort])
        units[name] = centres[name] + EPSILON
    for name in _alike([one.means for one in cohort]):
        variance = name.removesuffix("mean") + "var"
        if variance in units:
            centres[name] = _median([one.means[name] for one in cohort])
            units[name] = np.sqrt(units[variance])
    losses = [one.losses for one in cohort]
    if losses[0] and len({len(one) for one in losses}) == 1:
        centres[LOSSES] = _median([_differences(one) for one in losses])
        units[LOSSES] = np.maximum(_median([np.array(one) for one in losses]), np.finfo(np.float32).tiny)
    for name in set.intersection(*(set(one.numbers) for one in cohort)):
        centres[name] = np.array(statistics.median(one.numbers[name] for one in cohort))
        units[name] = np.maximum(centres[name], np.finfo(np.float32).tiny) if name == "loss" else np.array(1.0)
    return centres, units


def _from_centres(measured: Measured, centres: Centres, units: Centres) -> Distances:
    own: dict[str, AnyArray] = {**measured.means, **measured.variances, LOSSES: _differences(measured.losses)}
    own |= {name: np.array(number) for name, number in measured.numbers.items()}
    return {name: norm((own[name] - centre) / units[name]) for name, centre in centres.items()}


def _alike(arrays: Sequence[Params]) -> list[str]:
    return [n for n, v in arrays[0].items() if all(n in one and one[n].shape == v.shape for one in arrays)]


def _median(values: Sequence[AnyArray]) -> AnyArray:
    middle: AnyArray = np.median(np.stack(values).astype(np.float64), axis=0)
    return middle


def _differences(losses: Sequence[float]) -> AnyArray:
    """How hard a device's data is decides nothing: its candidates' losses without their mean."""
    values = np.array(losses, np.float64)
    return values - values.mean() if len(values) else values
