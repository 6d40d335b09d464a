"""Which results of a step may be counted, and with what weight: each beside all others of its step.

Judged when the step closes, over all results that are stored for it, and never on arrival: so the order of
arrival, a restart and a simulation cannot change the judgement. The scale is the cohort's own median, which
up to half of the devices cannot move far, and not that of earlier rounds, which a run would have to remember.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.cohort.measure import Measured
from tinyfleet.fedcore.models.layers.batch_norm import EPSILON
from tinyfleet.fedcore.run_spec import FleetSettings

Key: TypeAlias = tuple[int, str]
"""(step that the result was computed for, device)."""

LEAST_COHORT = 3  # of fewer, none is the odd one out
LEAST_CAPPED = 5  # of fewer, honest devices hold most of the data often enough
# Of the task's own norm: where all hardly move, some batch makes one of them move ten times as far.
FLOOR = 0.01
# Growth gradients behind a filter that is nearly empty are thousands of times larger than others.
EVIDENCE_FACTOR = 10.0
# Deviations of running means (in standard deviations) and variances (in powers of e) that are always allowed: their
# root mean square over all channels, and the most of one channel.
USUAL_DEVIATION, MOST_DEVIATION = 2.0, 7.0
USUAL_LOSSES = 0.5  # the same of candidates' losses, as a share of the median loss


@dataclass(frozen=True, slots=True)
class Judgement:
    """Refused results with the reason; of admitted ones those that weigh less than their samples."""

    refused: Mapping[Key, str] = field(default_factory=dict)
    weights: Mapping[Key, int] = field(default_factory=dict)


def judge(cohort: Mapping[Key, Measured], fleet: FleetSettings) -> Judgement:
    """Judge a step's results, whatever the order of ``cohort``."""
    ordered = {key: cohort[key] for key in sorted(cohort)}
    refused = _refused(ordered, fleet.norm_limit) if fleet.norm_limit else {}
    admitted = {key: one for key, one in ordered.items() if key not in refused}
    return Judgement(refused, _capped(admitted, fleet.weight_share))


# -- refused ----------------------------------------------------------------------------


def _refused(cohort: dict[Key, Measured], factor: float) -> dict[Key, str]:
    if len(cohort) < LEAST_COHORT:
        return {}
    found: dict[Key, str] = {}
    measured = list(cohort.values())
    floor = FLOOR * statistics.median(one.base_norm for one in measured)
    norms, evidence = [one.norm for one in measured], [one.evidence_norm for one in measured]
    _beyond(found, cohort, norms, max(floor, statistics.median(norms)), factor, "the norm of its update")
    scale = statistics.median(evidence)
    if scale > 0:
        _beyond(found, cohort, evidence, scale, factor * EVIDENCE_FACTOR, "the norm of its gradients")
    usual, most = _deviations(measured)
    for what, values, least in (("", usual, USUAL_DEVIATION), (" in one channel", most, MOST_DEVIATION)):
        scale = max(statistics.median(values), least / factor)
        _beyond(found, cohort, values, scale, factor, f"the deviation of its batch-norm statistics{what}")
    losses = _loss_deviations(measured)
    scale = max(statistics.median(losses), USUAL_LOSSES / factor)
    _beyond(found, cohort, losses, scale, factor, "the deviation of its candidates' losses")
    return found


def _beyond(
    found: dict[Key, str],
    cohort: Mapping[Key, Measured],
    values: list[float],
    scale: float,
    factor: float,
    what: str,
) -> None:
    for key, value in zip(cohort, values, strict=True):
        if not value <= factor * scale:
            found.setdefault(key, f"{what} is {value:.3g}; at most {factor * scale:.3g} fits this step's cohort")


def _deviations(cohort: list[Measured]) -> tuple[list[float], list[float]]:
    """Root mean square and most, over all channels, of each one's distance from the coordinate-wise medians."""
    total, most, channels = np.zeros(len(cohort)), np.zeros(len(cohort)), 0
    shapes = [{name: v.shape for name, v in (one.means | one.variances).items()} for one in cohort]
    for name in sorted(shapes[0]):
        if any(shape.get(name) != shapes[0][name] for shape in shapes):
            continue  # the fold refuses what does not fit the task
        distance = np.abs(_distances(cohort, name)).reshape(len(cohort), -1)
        total += np.square(distance).sum(axis=1)
        most = np.maximum(most, distance.max(axis=1, initial=0.0))
        channels += distance.shape[1]
    return np.sqrt(total / max(1, channels)).tolist(), most.tolist()


def _distances(cohort: list[Measured], name: str) -> AnyArray:
    if name in cohort[0].variances:
        logs = np.log(np.stack([one.variances[name] for one in cohort]).astype(np.float64) + EPSILON)
        ratio: AnyArray = logs - np.median(logs, axis=0)
        return ratio
    values = np.stack([one.means[name] for one in cohort]).astype(np.float64)
    variance = name.removesuffix("mean") + "var"
    spread = np.median([one.variances.get(variance, np.ones_like(values[0])) for one in cohort], axis=0)
    shifted: AnyArray = (values - np.median(values, axis=0)) / np.sqrt(spread + EPSILON)
    return shifted


def _loss_deviations(cohort: list[Measured]) -> list[float]:
    """Each one's greatest distance from the candidates' median losses, as a share of the median of those."""
    if not cohort[0].losses or any(len(one.losses) != len(cohort[0].losses) for one in cohort):
        return [0.0] * len(cohort)
    losses = np.array([one.losses for one in cohort])
    middle = np.median(losses, axis=0)
    scale = max(float(np.median(middle)), float(np.finfo(np.float32).tiny))
    return [float(distance) / scale for distance in np.abs(losses - middle).max(axis=1)]


# -- weights ----------------------------------------------------------------------------


def _capped(cohort: Mapping[Key, Measured], share: float) -> dict[Key, int]:
    """Weights of those that would have more than ``share`` of all samples, or half of it of samples times norm."""
    if len(cohort) < LEAST_CAPPED or share >= 1.0:
        return {}
    ratio = share / (1.0 - share)  # to all others together
    pulling = share / (2.0 - share)
    samples = sum(one.samples for one in cohort.values())
    pull = math.fsum(one.samples * one.norm for one in cohort.values())
    capped = {}
    for key, one in cohort.items():
        most = ratio * (samples - one.samples)
        if one.norm > 0:
            most = min(most, pulling * max(0.0, pull - one.samples * one.norm) / one.norm)
        if one.samples > most:
            capped[key] = max(1, math.floor(most))
    return capped
