from __future__ import annotations

import math
import random
from itertools import combinations

import pytest

from tinyfleet.fedcore.secure_sum.neighbours import (
    _holds,
    _log2_tail,
    degree_for,
    neighbours,
    ring_order,
    threshold_of,
)

NAMES = [f"d{number:03d}" for number in range(100)]


def test_all_with_all_in_a_small_fleet():
    assert [degree_for(count, 0.5) for count in (3, 5, 20, 40)] == [2, 4, 19, 39]
    assert neighbours(["a", "b", "c"], 2) == {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}


def test_a_large_fleet_has_few_neighbours():
    found = {count: degree_for(count, 0.5) for count in (100, 300, 1000, 4096)}
    assert found[100] < 99
    assert all(_holds(count, degree, 0.5) and not _holds(count, degree - 2, 0.5) for count, degree in found.items())
    assert found[4096] < 2 * found[300]  # it grows with the logarithm


@pytest.mark.parametrize("degree", [2, 8, 44])
def test_the_ring_is_mutual_and_even(degree):
    found = neighbours(ring_order(NAMES, b"seed"), degree)
    assert all(len(around) == degree and name not in around for name, around in found.items())
    assert all(name in found[other] for name, around in found.items() for other in around)


def test_the_order_is_the_seeds():
    assert ring_order(NAMES, b"a") == ring_order(NAMES[::-1], b"a") != ring_order(NAMES, b"b")


def test_it_takes_two_gaps_of_half_a_degree_to_cut_a_ring():
    """Every set of lost devices of a ring of 11 with 4 neighbours each: the rule that the bound rests on."""
    order = [f"d{n}" for n in range(11)]
    links = neighbours(order, 4)
    for lost_count in range(9):
        for lost in combinations(range(11), lost_count):
            left = [name for place, name in enumerate(order) if place not in lost]
            starts = [n for n in range(11) if n in lost and (n - 1) % 11 not in lost]
            gaps = [next(k for k in range(12) if (start + k) % 11 not in lost) for start in starts]
            wide = sum(gap >= 2 for gap in gaps)
            assert wide >= 2 or hangs_together(left, links)


def hangs_together(left, links):
    reached, todo = set(), [left[0]]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [other for other in links[name] if other in left]
    return reached == set(left)


def test_the_tail_is_the_hypergeometric_one():
    rng = random.Random(3)
    drawn = [sum(number < 30 for number in rng.sample(range(99), 20)) for _ in range(20_000)]
    seen = sum(hits >= 9 for hits in drawn) / len(drawn)
    assert 2 ** _log2_tail(99, 30, 20, 9) == pytest.approx(seen, abs=0.01)
    assert _log2_tail(10, 2, 5, 3) == -math.inf
    assert _log2_tail(10, 10, 5, 5) == 0


@pytest.mark.parametrize("holders", range(2, 60))
def test_more_than_half_unmask(holders):
    for share in (0.0, 0.5, 0.6, 1.0):
        assert holders / 2 < threshold_of(holders, share) <= holders
    assert threshold_of(holders, 1.0) == holders
