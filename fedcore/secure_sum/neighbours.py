"""Who shares masks with whom: all with all in a small fleet, a sparse random ring in a large one.

In the ring every device is linked with the ``degree / 2`` next on either side, in an order that is drawn from all
devices' keys (a Harary graph under a random order: their section 3.2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

PRIVACY_BITS = 40  # sigma: a step in which the sum of fewer than all honest survivors leaks, one in 2^40
COMPLETION_BITS = 20  # eta: a step that cannot be unmasked in spite of the rates below, one in 2^20; it is repeated
DROPOUT = 0.3  # share of the devices that may be lost in one step
CORRUPT = 0.1  # share of the devices that may lend the coordinator what they know


def threshold_of(holders: int, share: float) -> int:
    """How many of so many holders of shares unmask: always more than half of them.

    With half or fewer, a coordinator that tells two halves different lists of survivors would get both secrets of
    one device.
    """
    return min(holders, max(holders // 2 + 1, math.ceil(share * holders)))


def degree_for(members: int, share: float) -> int:
    """The least even degree that holds at the rates above; ``members - 1``, all, where no ring does.

    Three bounds, as in Bell et al., section 3.3: no device has as many corrupt neighbours as unmask; the honest
    survivors hang together, since it takes two gaps of half a degree to cut the ring; enough neighbours survive.
    """
    return next((degree for degree in range(2, members - 1, 2) if _holds(members, degree, share)), members - 1)


def _holds(members: int, degree: int, share: float) -> bool:
    corrupt, lost = math.ceil(CORRUPT * members), math.ceil(DROPOUT * members)
    gone = (corrupt + lost) / members
    cut = math.log2(math.comb(members, 2)) + degree * math.log2(gone)
    if cut > -PRIVACY_BITS - 1:
        return False
    threshold = threshold_of(degree + 1, share)
    others, names = members - 1, math.log2(members)
    if _log2_tail(others, corrupt, degree, threshold) + names > -PRIVACY_BITS - 1:
        return False
    too_many_lost = degree - threshold + 1
    return _log2_tail(others, lost, degree, too_many_lost) + names <= -COMPLETION_BITS


def _log2_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """log2 of the chance of ``least`` or more marked among the drawn (hypergeometric)."""
    ways = sum(
        math.comb(marked, hit) * math.comb(population - marked, drawn - hit)
        for hit in range(least, min(marked, drawn) + 1)
        if drawn - hit <= population - marked
    )
    return math.log2(ways) - math.log2(math.comb(population, drawn)) if ways else -math.inf


def ring_order(members: Sequence[str], seed: bytes) -> list[str]:
    """``members`` in the order that ``seed`` gives."""
    return sorted(members, key=lambda name: hashlib.sha256(seed + name.encode()).digest())


def neighbours(order: Sequence[str], degree: int) -> dict[str, tuple[str, ...]]:
    """Each device's neighbours, sorted by name. ``degree`` is even, or that of all with all."""
    if degree >= len(order) - 1:
        return {name: tuple(sorted(set(order) - {name})) for name in order}
    found = {}
    for place, name in enumerate(order):
        around = {order[(place + step) % len(order)] for step in range(-(degree // 2), degree // 2 + 1)}
        found[name] = tuple(sorted(around - {name}))
    return found
