"""Which results of a step may be counted, and how much of each: every one beside all others of its step.

Judged when the step closes, over all results that are stored for it, and never on arrival: so the order of
arrival, a restart and a simulation cannot change the judgement. The scale is the cohort's own median, which
up to half of the devices cannot move far, and not that of earlier rounds, which a run would have to remember
and a patient device could raise.

Refused is what no honest device sends. What an honest one might send is cut back (``limits``): a last batch of one
sample, say, makes batch norm move an honest device fifteen times as far as the others of its step.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.cohort.limits import Limit, limits
from tinyfleet.fedcore.cohort.measure import FLOOR, Key, Measured
from tinyfleet.fedcore.models.layers.batch_norm import EPSILON
from tinyfleet.fedcore.run_spec import FleetSettings

LEAST_COHORT = 3  # of fewer, none is the odd one out
SPREAD = 10.0  # median deviations
# Deviations that are always allowed: of running means (in standard deviations) and variances (in powers of e) their
# root mean square over all channels; of candidates' losses in median losses.
STATISTICS_ROOM, LOSSES_ROOM = 2.0, 10.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """Refused results with the reason; of admitted ones those that exceed a limit."""

    refused: Mapping[Key, str] = field(default_factory=dict)
    limits: Mapping[Key, Limit] = field(default_factory=dict)


def judge(cohort: Mapping[Key, Measured], fleet: FleetSettings) -> Judgement:
    """Judge a step's results, whatever the order of ``cohort``."""
    ordered = {key: cohort[key] for key in sorted(cohort)}
    refused = _refused(ordered, fleet.norm_limit) if fleet.norm_limit else {}
    admitted = {key: one for key, one in ordered.items() if key not in refused}
    influence = 1.0 if fleet.aggregate == "clipped" else fleet.influence_limit
    return Judgement(refused, limits(admitted, influence) if influence else {})


def _refused(cohort: dict[Key, Measured], factor: float) -> dict[Key, str]:
    if len(cohort) < LEAST_COHORT:
        return _ruinous(cohort, factor)
    found: dict[Key, str] = {}
    measured = list(cohort.values())
    _beyond(found, cohort, [one.norm for one in measured], _norm_limits(measured, factor), "the norm of its update")
    for what, values, room in (
        ("the deviation of its batch-norm statistics", _deviations(measured), STATISTICS_ROOM),
        ("the deviation of its candidates' losses", _loss_deviations(measured), LOSSES_ROOM),
    ):
        limit = max(SPREAD * statistics.median(values), room)
        _beyond(found, cohort, values, [limit] * len(values), what)
    return found


def _ruinous(cohort: dict[Key, Measured], factor: float) -> dict[Key, str]:
    """Where there is no cohort to compare with: what leaves nothing of the model that it was to improve."""
    found: dict[Key, str] = {}
    for key, one in cohort.items():
        model = one.floor / FLOOR
        limit = max(factor * model, one.rewound_norm)
        if model and not one.norm <= limit:
            found[key] = (
                f"the norm of its update is {one.norm:.3g}, that of the model {model:.3g}: at most {limit:.3g}"
            )
    return found


def _norm_limits(cohort: Sequence[Measured], factor: float) -> list[float]:
    """Of more samples more steps follow, and an update grows with them at most in proportion."""
    scale = factor * max(
        statistics.median(one.norm for one in cohort), statistics.median(one.floor for one in cohort)
    )
    usual = statistics.median(one.samples for one in cohort)
    return [max(scale * max(1.0, one.samples / usual), one.rewound_norm) for one in cohort]


def _beyond(
    found: dict[Key, str], cohort: Mapping[Key, Measured], values: list[float], limits: list[float], what: str
) -> None:
    for key, value, limit in zip(cohort, values, limits, strict=True):
        if not value <= limit:
            found.setdefault(key, f"{what} is {value:.3g}; at most {limit:.3g} fits this step's cohort")


def _deviations(cohort: list[Measured]) -> list[float]:
    """Root mean square over all channels of each one's distance from the coordinate-wise medians."""
    total, channels = np.zeros(len(cohort)), 0
    shapes = [{name: v.shape for name, v in (one.means | one.variances).items()} for one in cohort]
    for name in sorted(shapes[0]):
        if any(shape.get(name) != shapes[0][name] for shape in shapes):
            continue  # the fold refuses what does not fit the task
        distance = _distances(cohort, name).reshape(len(cohort), -1)
        total += np.square(distance).sum(axis=1)
        channels += distance.shape[1]
    return [float(deviation) for deviation in np.sqrt(total / max(1, channels))]


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
