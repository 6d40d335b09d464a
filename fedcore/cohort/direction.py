"""Which results of a step point away from where all others go, by more than the step's own spread explains.

Limits bound how far a result moves the step, not whither. A device that undoes what others do, within every limit,
slows the step by twice its share, or unlearns its own samples round after round. Its direction tells it: the cosine
between its update and the sum of all others'. Of uneven honest devices that is negative as well, of all alike: each
one's data is what the others lack. So the median cosine of the step and its deviation are the scale, as everywhere,
and the more of them are negative, the less is odd.

Several that send the same reversed update turn the sum round, since honest ones agree little with each other. So
robust aggregates look first at each one's median cosine with single results, which fewer than half cannot turn.

Cosines are exact and of the whole update: of random projections, which would be cheaper, whoever knows them picks
one that looks like the others'. Every result is read again for it, one at a time.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping

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

# Deviations from the median cosine: where all others agree with each other, and so many more where all point apart.
ODD, MORE_ODD = 1.5, 3.0
LEAST_DEVIATION = 0.02  # of cosines: where all but agree, a little is nothing
DEVIATION = 1.4826  # of a normal distribution, in median absolute ones
BITS = 24  # of the sum of updates: an update may be twice as large as a value, and the sum of values has 32
PEERS = 32  # results that every one is compared with, held in memory

Results = Callable[[], Iterable[tuple[Key, Payload]]]
"""The results that count as far as they count, from the first, as often as asked."""


def astray(method: Method, task: Payload, results: Results, *, peers: int = 0) -> frozenset[Key]:
    """Results that count for nothing in this step, whatever the order of ``results``; fewer than half of them.

    With ``peers``, each is at first compared with so many single results. One after the other is looked for again
    without those that were found: they hide each other.
    """
    found: frozenset[Key] = frozenset()
    if peers:
        with_peers = _with_peers(method, task, results, peers)
        while odd := _odd(_median_cosines(with_peers, found), len(with_peers), found):
            found |= odd
    cosines = _cosines(method, task, results, found)
    count = len(cosines) + len(found)
    while odd := _odd(cosines, count, found):
        found |= odd
        cosines = _cosines(method, task, results, found)
    return found


def _odd(cosines: Mapping[Key, float], count: int, found: Collection[Key]) -> frozenset[Key]:
    """Those far below all others, the farthest first, while they and ``found`` are fewer than half of ``count``."""
    if len(cosines) < LEAST_LIMITED:
        return frozenset()
    middle = statistics.median(cosines.values())
    deviation = DEVIATION * statistics.median(abs(cosine - middle) for cosine in cosines.values())
    apart = sum(cosine < 0.0 for cosine in cosines.values()) / len(cosines)
    least = min(0.0, middle - (ODD + MORE_ODD * apart) * max(deviation, LEAST_DEVIATION))
    far = sorted((cosine, key) for key, cosine in cosines.items() if cosine < least)
    return frozenset(key for _, key in far[: (count - 1) // 2 - len(found)])


# -- with the sum of all others -----------------------------------------------------------


def _cosines(method: Method, task: Payload, results: Results, without: Collection[Key]) -> dict[Key, float]:
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
        along = weight * _product(total, update)
        own = weight**2 * _product(update, update)
        others = max(0.0, squared - 2.0 * along + own)
        found[key] = _cosine(along - own, own, others)
    return found


def _total(method: Method, task: Payload, results: Results, without: Collection[Key]) -> Params:
    """The sum of all updates by their weights, exact in any order; in double precision."""
    sums: dict[str, FixedPointSum] = {}
    for key, result in results():
        if key in without:
            continue
        weight = checked_samples(result)
        for name, update in _update(method, task, result).items():
            sums.setdefault(name, FixedPointSum(update.shape, BITS)).add(name, update, weight)
    return {name: entry.mean(1).astype(np.float64) for name, entry in sorted(sums.items())}


# -- with single ones -----------------------------------------------------------------------


def _with_peers(method: Method, task: Payload, results: Results, peers: int) -> dict[Key, dict[Key, float]]:
    """Each one's cosines with single others: those of least digest, so that names choose nothing."""
    chosen = sorted((key for key, _ in results()), key=_digest)[:peers]
    held = {key: _single(_update(method, task, result)) for key, result in results() if key in set(chosen)}
    lengths = {key: _product(update, update) for key, update in held.items()}
    found: dict[Key, dict[Key, float]] = {}
    for key, result in results():
        update = _single(_update(method, task, result))
        if update:
            own = _product(update, update)
            found[key] = {
                peer: _cosine(_product(held[peer], update), own, lengths[peer]) for peer in chosen if peer != key
            }
    return found


def _median_cosines(with_peers: Mapping[Key, Mapping[Key, float]], without: Collection[Key]) -> dict[Key, float]:
    left = {key: [c for peer, c in known.items() if peer not in without] for key, known in with_peers.items()}
    return {key: statistics.median(cosines) for key, cosines in left.items() if cosines and key not in without}


def _digest(key: Key) -> bytes:
    return hashlib.sha256(f"{key[0]}/{key[1]}".encode()).digest()


# -- updates --------------------------------------------------------------------------------


def _update(method: Method, task: Payload, result: Payload) -> Params:
    """What training changed, in double precision; of arrays that are counted, and of evidence, nothing."""
    found: Params = {}
    for name in sorted(result.params):
        role = role_of(method, name)
        if role is not None and role not in STATISTICS and name in task.params:
            found[name] = change(method, task, result, name)
    return found


def _single(update: Params) -> Params:
    return {name: values.astype(np.float32) for name, values in update.items()}


def _product(first: Params, second: Params) -> float:
    """In double precision, without BLAS."""
    return math.fsum(float((first[name].astype(np.float64) * values).sum()) for name, values in second.items())


def _cosine(product: float, first: float, second: float) -> float:
    """Of two updates with these squared lengths; 0 where one has none."""
    lengths = math.sqrt(first) * math.sqrt(second)
    return product / lengths if lengths else 0.0
