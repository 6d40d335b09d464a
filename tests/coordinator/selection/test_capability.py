"""Capability-aware selection: parts that fit, reasons for those left out, and nobody starved."""

from __future__ import annotations

import collections
import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfleet.coordinator.selection.capability import DEADLINE_SHARE, capable, round_target_s
from tinyfleet.coordinator.selection.policy import Candidate, JobForecast
from tinyfleet.coordinator.store.records import Part
from tinyfleet.fedcore.run_spec import FleetSettings

FLEET = FleetSettings(selection="capability", round_target_s=60.0)


def board(name="a", work_s=10.0, fixed_s=0.0, **more):
    return Candidate(
        name, **{"samples": 100, "whole_local_steps": 80, "forecast": JobForecast(fixed_s, work_s, "x"), **more}
    )


def share_of(candidate, fleet=FLEET, *others):
    choice = capable([candidate, *others], fleet, size=0, seed=0, step=0)
    return next(share for share in choice.shares if share.device == candidate.device)


def test_who_is_in_time_is_given_the_whole_job():
    share = share_of(board(work_s=55.0, fixed_s=5.0))
    assert (share.part, share.local_steps, share.activation_keep, share.predicted_s, share.reason) == (
        Part.WHOLE,
        0,
        1.0,
        60.0,
        "",
    )


def test_a_slow_device_is_given_the_steps_that_fit():
    share = share_of(board(work_s=160.0, fixed_s=10.0))
    assert (share.part, share.local_steps, share.whole_local_steps, share.predicted_s) == (Part.PART, 25, 80, 60.0)
    assert "whole job would take 170 s, the round has 60 s" in share.reason


def test_who_cannot_do_the_least_part_is_left_out_with_the_reason():
    share = share_of(board(work_s=480.0, fixed_s=5.0), FLEET, board("b"))
    assert (share.part, share.chosen) == (Part.LEFT_OUT, False)
    assert share.reason == (
        "the whole job takes 485 s here, the round has 60 s, and even 10 of its 80 local steps take 65 s"
    )


def test_a_job_that_cannot_be_divided_has_the_deadline():
    assert share_of(board(work_s=500.0, whole_local_steps=0)).part is Part.WHOLE
    late = share_of(board(work_s=550.0, whole_local_steps=0), FLEET, board("b"))
    assert (late.part, "the round has 540 s" in late.reason) == (Part.LEFT_OUT, True)


def test_an_unknown_board_is_tried_with_the_whole_job():
    share = share_of(board(forecast=None))
    assert (share.part, share.chosen, share.predicted_s) == (Part.WHOLE, True, None)


def test_the_target_is_what_half_of_the_devices_need_and_never_beyond_the_deadline():
    boards = [board(str(i), work_s=seconds) for i, seconds in enumerate((3.0, 9.0, 20.0, 40.0))]
    fleet = FleetSettings(selection="capability")
    assert round_target_s(boards, fleet) == 9.0
    assert round_target_s([board(work_s=1e6)], fleet) == DEADLINE_SHARE * 600.0
    assert round_target_s([board(forecast=None)], fleet) == DEADLINE_SHARE * 600.0
    assert round_target_s(boards, FleetSettings(round_target_s=1e5, deadline_s=10.0)) == 9.0


def test_a_target_that_nobody_has_set_leaves_nobody_out():
    fleet = FleetSettings(selection="capability")
    boards = [board(str(i), work_s=seconds) for i, seconds in enumerate((3.0, 9.0, 20.0, 400.0))]
    choice = capable([*boards, board("late", work_s=1e5)], fleet, size=0, seed=0, step=0)
    assert set(choice.left_out) == {"late"}  # for the deadline
    assert [share.local_steps for share in choice.shares] == [0, 0, 0, 10, 0]
    assert choice.shares[3].predicted_s == 50.0


def test_a_sick_device_is_spared():
    share = share_of(board(health={"temperature_c": 91.0}, waited=1000), FLEET, board("b"))
    assert (share.part, share.chosen) == (Part.LEFT_OUT, False)
    assert "91 °C" in share.reason


def test_with_too_little_room_caches_are_pruned():
    assert share_of(board(need_bytes=100, room_bytes=100)).activation_keep == 1.0
    tight = share_of(board(need_bytes=100_000_000, room_bytes=60_000_000))
    assert (tight.part, tight.activation_keep) == (Part.WHOLE, 0.5)
    assert "100 MB, and 60 MB are free" in tight.reason
    assert share_of(board(need_bytes=100, room_bytes=1)).activation_keep == 0.25
    assert share_of(board(work_s=160.0, need_bytes=100, room_bytes=80)).activation_keep == 0.75


def test_where_all_are_too_slow_the_fastest_do_their_least():
    fleet = FleetSettings(selection="capability", round_target_s=1.0, min_results=2)
    slow = [board(str(i), work_s=100.0 * (i + 1)) for i in range(4)]
    choice = capable(slow, fleet, size=0, seed=0, step=0)
    assert [(share.device, share.local_steps, share.predicted_s) for share in choice.cohort] == [
        ("0", 10, 12.5),
        ("1", 10, 25),
    ]
    assert set(choice.left_out) == {"2", "3"}


def test_more_data_is_chosen_more_often():
    boards = [board(f"{i}", samples=300 if i < 5 else 100) for i in range(10)]
    turns = collections.Counter()
    for step in range(300):
        turns.update(share.device for share in capable(boards, FLEET, size=2, seed=1, step=step).cohort)
    rich, poor = (sum(turns[str(i)] for i in part) for part in (range(5), range(5, 10)))
    assert 2.0 < rich / poor < 4.0
    assert min(turns.values()) > 0


SECONDS = st.floats(0.0, 1000.0)
BOARDS = st.lists(
    st.builds(
        board,
        work_s=SECONDS,
        fixed_s=st.floats(0.0, 70.0),
        samples=st.integers(0, 10_000),
        whole_local_steps=st.integers(0, 200),
        health=st.sampled_from([{}, {"temperature_c": 95.0}]),
    ),
    min_size=1,
    max_size=25,
)
FLEETS = st.builds(
    FleetSettings,
    selection=st.just("capability"),
    cohort=st.integers(0, 8),
    min_results=st.integers(1, 3),
    round_target_s=st.sampled_from([0.0, 5.0, 60.0, 2000.0]),
    least_share=st.floats(0.01, 1.0),
    patience=st.integers(1, 12),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(BOARDS, FLEETS, st.integers(0, 99))
def test_no_device_that_can_do_its_part_is_ever_starved(boards, fleet, seed):
    boards = [dataclasses.replace(one, device=f"b{i}") for i, one in enumerate(boards)]
    able = len(boards) - len(capable(boards, fleet, size=0, seed=seed, step=0).left_out)
    bound = fleet.patience + math.ceil(able / (fleet.cohort or len(boards)))
    waited = dict.fromkeys((one.device for one in boards), 0)
    for step in range(3 * bound):
        waited = {device: steps + 1 for device, steps in waited.items()}
        now = [dataclasses.replace(one, waited=waited[one.device]) for one in boards]
        choice = capable(now, fleet, size=fleet.cohort, seed=seed, step=step)
        for share in choice.cohort:
            waited[share.device] = 0
        for device, steps in waited.items():
            assert device in choice.left_out or steps < bound + 1, (device, steps)


@settings(max_examples=60, deadline=None)
@given(BOARDS, FLEETS, st.integers(0, 99), st.integers(0, 99), st.randoms())
def test_a_choice_is_sound_and_the_order_of_candidates_does_not_matter(boards, fleet, seed, step, random):
    boards = [dataclasses.replace(one, device=f"b{i}") for i, one in enumerate(boards)]
    choice = capable(boards, fleet, size=fleet.cohort, seed=seed, step=step)
    assert [share.device for share in choice.shares] == sorted(one.device for one in boards)
    able = [share for share in choice.shares if share.part is not Part.LEFT_OUT]
    assert len(choice.cohort) == (min(fleet.cohort, len(able)) if fleet.cohort else len(able))
    assert len(able) >= min(fleet.min_results, sum(not one.health for one in boards))
    for share in choice.shares:
        assert share.chosen <= (share.part is not Part.LEFT_OUT)
        assert (share.part is Part.LEFT_OUT) <= bool(share.reason)
        assert (
            (0 < share.local_steps < share.whole_local_steps) if share.part is Part.PART else share.local_steps == 0
        )
    random.shuffle(boards)
    assert capable(boards, fleet, size=fleet.cohort, seed=seed, step=step) == choice


def test_a_device_that_boasts_of_its_samples_is_not_in_every_step():
    boards = [board("liar", samples=1 << 28), *(board(f"b{index}") for index in range(40))]
    turns = [
        "liar" in {share.device for share in capable(boards, FLEET, size=2, seed=1, step=step).cohort}
        for step in range(200)
    ]
    # As if it had ten times the data: two draws of 50 shares, of which ten are its own.
    assert 0.2 < sum(turns) / len(turns) < 0.6


@pytest.mark.parametrize("size", [0, 3])
def test_nobody_there_is_nobody_chosen(size):
    assert capable([], FLEET, size=size, seed=0, step=0).shares == ()
