"""Cohorts depend on (seed, step) and the candidates, and on nothing else."""

from __future__ import annotations

import collections

from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.coordinator.selection.policy import Candidate, JobForecast, draw, uniform
from tinyfleet.coordinator.store.records import Part
from tinyfleet.fedcore.run_spec import FleetSettings

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), unique=True, max_size=20)


def random_cohort(names, *, size, seed, step):
    candidates = [Candidate(name) for name in names]
    return tuple(
        share.device for share in uniform(candidates, FleetSettings(), size=size, seed=seed, step=step).cohort
    )


@given(NAMES, st.integers(0, 25), st.integers(0, 99), st.integers(0, 99), st.randoms())
def test_a_cohort_is_a_stable_subset_of_the_right_size(names, size, seed, step, random):
    cohort = random_cohort(names, size=size, seed=seed, step=step)
    assert set(cohort) <= set(names)
    assert len(cohort) == (min(size, len(names)) if size else len(names))
    shuffled = list(names)
    random.shuffle(shuffled)
    assert random_cohort(shuffled, size=size, seed=seed, step=step) == cohort


@given(NAMES.filter(lambda names: len(names) > 3), st.integers(1, 3), st.integers(0, 9))
def test_one_candidate_less_changes_one_place_at_most(names, size, seed):
    before = set(random_cohort(names, size=size, seed=seed, step=0))
    after = set(random_cohort(names[1:], size=size, seed=seed, step=0))
    assert len(before - after) <= 1


def test_every_device_gets_its_turn():
    names = [f"board-{i}" for i in range(10)]
    turns = collections.Counter(
        name for step in range(500) for name in random_cohort(names, size=3, seed=1, step=step)
    )
    assert set(turns) == set(names)
    assert min(turns.values()) > 100  # 150 expected, standard deviation 10


def test_the_cohort_is_the_draw_whatever_the_devices_are_like():
    fast, slow = JobForecast(0.0, 1.0, "a guess"), JobForecast(5.0, 1e6, "its last task")
    names = [f"board-{i}" for i in range(9)]
    candidates = [
        Candidate(name, i, i, 40, slow if i % 2 else fast, 10, 1, {"temperature_c": 99.0})
        for i, name in enumerate(names)
    ]
    choice = uniform(candidates[::-1], FleetSettings(), size=4, seed=3, step=7)
    assert tuple(share.device for share in choice.cohort) == draw(names, size=4, seed=3, step=7)
    assert [share.device for share in choice.shares] == names
    assert choice.left_out == {}
    shares = {(share.part, share.local_steps, share.activation_keep) for share in choice.shares}
    assert shares == {(Part.WHOLE, 0, 1.0)}
    assert (choice.shares[1].predicted_s, choice.shares[1].basis) == (1e6 + 5.0, "its last task")
