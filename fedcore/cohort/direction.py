"""Which results of a step point away from where all others go, by more than the step's own spread explains.

Limits bound how far a result moves the step, not whither. A device that undoes what others do, within every limit,
slows the step by twice its share, or unlearns its own samples round after round. Its direction tells it: the cosine
between its update and the sum of all others'. Of uneven honest devices that is negative as well, of all alike: each
one's data is what the others lack. So the median cosine of the step and its deviation are the scale, as everywhere.

Cosines are exact and of the whole update: of random projections, which would be cheaper, whoever knows them picks
one that looks like the others'. Every result is read again for it, one at a time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.cohort.limits import LEAST_LIMITED
from tinyfleet.fedcore.cohort.measure import Key, change, norm, role_of
from tinyfleet.fedcore.errors import AggregationError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.parts.fixed_point import FixedPointSum
from tinyfleet.fedcore.models.params import STATISTICS
from tinyfleet.fedcore.payload import Payload

ODD = 3.0  # deviations from the median cosine
LEAST_DEVIATION = 0.02  # of cosines: where all but agree, a little is nothing
DEVIATION = 1.4826  # of a normal distribution, in median absolute ones
BITS = 24  # of the sum of updates: an update may be twice as large as a value, and the sum of values has 32

Results = Callable[[], Iterable[tuple[Key, Payload]]]
"""The results that count as far as they count, from the first, as often as asked."""


def astray(method: Method, task: Payload, results: Results) -> frozenset[Key]:
    """Results that count for nothing in this step, whatever the order of ``results``; fewer than half of them.

    One after the other is looked for again without those that were found: they hide each other.
    """
    found: frozenset[Key] = frozenset()
    cosines = _cosines(method, task, results, found)
    most = (len(cosines) - 1) // 2
    while odd := sorted(_odd(cosines), key=lambda key: (cosines[key], key))[: most - len(found)]:
        found |= set(odd)
        cosines = _cosines(method, task, results, found)
    return found


def _odd(cosines: Mapping[Key, float]) -> list[Key]:
    if len(cosines) < LEAST_LIMITED:
        return []
    middle = statistics.median(cosines.values())
    deviation = DEVIATION * statistics.median(abs(cosine - middle) for cosine in cosines.values())
    least = min(0.0, middle - ODD * max(deviation, LEAST_DEVIATION))
    return [key for key, cosine in cosines.items() if cosine < least]


def _cosines(method: Method, task: Payload, results: Results, without: frozenset[Key]) -> dict[Key, float]:
    """Each one's, between its update and the sum of all others'; none where results have no updates."""
    try:
        total = _total(method, task, results, without)
    except AggregationError:  # values at the edge of what a step can sum
        return {}
    squared = math.fsum(norm(values) ** 2 for values in total.values())
    found: dict[Key, float] = {}
    for key, result in results():
        if key in without or not total:
            continue
        weight, update = checked_samples(result), _update(method, task, result)
        along = weight * math.fsum(float((total[name] * values).sum()) for name, values in update.items())
        own = weight**2 * math.fsum(norm(values) ** 2 for values in update.values())
        others = max(0.0, squared - 2.0 * along + own)
        lengths = math.sqrt(own) * math.sqrt(others)
        found[key] = (along - own) / lengths if lengths else 0.0
    return found


def _total(method: Method, task: Payload, results: Results, without: frozenset[Key]) -> Params:
    """The sum of all updates by their weights, exact in any order; in double precision."""
    sums: dict[str, FixedPointSum] = {}
    for key, result in results():
        if key in without:
            continue
        weight = checked_samples(result)
        for name, update in _update(method, task, result).items():
            sums.setdefault(name, FixedPointSum(update.shape, BITS)).add(name, update, weight)
    return {name: entry.mean(1).astype(np.float64) for name, entry in sorted(sums.items())}


def _update(method: Method, task: Payload, result: Payload) -> Params:
    """What training changed, in double precision; of arrays that are counted, and of evidence, nothing."""
    found: Params = {}
    for name in sorted(result.params):
        role = role_of(method, name)
        if role is not None and role not in STATISTICS and name in task.params:
            found[name] = change(method, task, result, name)
    return found
