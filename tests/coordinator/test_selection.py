"""Cohorts depend on (seed, step) and the candidates, and on nothing else."""

from __future__ import annotations

import collections

from hypothesis import given
from hypothesis import strategies as st

from coordinator.rows import DeviceRow
from coordinator.selection import random_cohort

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), unique=True, max_size=20)


def rows(names):
    return [DeviceRow(name, name, "accepted", True, 0.0, {}, {}, 1, [], 0, 0, 0) for name in names]


@given(NAMES, st.integers(0, 25), st.integers(0, 99), st.integers(0, 99), st.randoms())
def test_a_cohort_is_a_stable_subset_of_the_right_size(names, size, seed, step, random):
    cohort = random_cohort(rows(names), size=size, seed=seed, step=step)
    assert set(cohort) <= set(names)
    assert len(cohort) == (min(size, len(names)) if size else len(names))
    shuffled = list(names)
    random.shuffle(shuffled)
    assert random_cohort(rows(shuffled), size=size, seed=seed, step=step) == cohort


@given(NAMES.filter(lambda names: len(names) > 3), st.integers(1, 3), st.integers(0, 9))
def test_one_candidate_less_changes_one_place_at_most(names, size, seed):
    before = set(random_cohort(rows(names), size=size, seed=seed, step=0))
    after = set(random_cohort(rows(names[1:]), size=size, seed=seed, step=0))
    assert len(before - after) <= 1


def test_every_device_gets_its_turn():
    names = [f"board-{i}" for i in range(10)]
    turns = collections.Counter(
        name for step in range(500) for name in random_cohort(rows(names), size=3, seed=1, step=step)
    )
    assert set(turns) == set(names)
    assert min(turns.values()) > 100  # 150 expected, standard deviation 10
