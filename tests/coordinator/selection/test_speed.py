"""Training speed from profiles."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from tinyfleet.coordinator.selection.speed import TRAINING_SHARE, training_gflops
from tinyfleet.device_profiles.profile import Measurement, Thermal, shipped


def test_the_shipped_boards_stand_in_their_known_order():
    names = ("pi-zero-2w", "pi-3b-plus", "jetson-nano", "pi-4b", "pi-5")
    speeds = [training_gflops(asdict(shipped()[name])) for name in names]
    rates = [rate for rate, _ in speeds]
    assert rates == sorted(rates)
    assert 5 < rates[-1] / rates[0] < 20
    assert {basis for _, basis in speeds} == {"the board's data sheet"}


def test_every_shipped_board_but_the_generic_one_has_a_speed():
    assert [name for name, board in shipped().items() if training_gflops(asdict(board)) is None] == ["generic"]


def test_a_measurement_counts_more_than_the_data_sheet():
    measured = Measurement(10**9, 3, 2.0, 1.0, 1.0)
    board = asdict(replace(shipped()["pi-5"], measured=measured))
    assert training_gflops(board) == (3 * 2.0 * TRAINING_SHARE, "the board's measured speed")
    hot = replace(measured, thermal=Thermal(60, 3, 4.0, 0.5))
    found = training_gflops(asdict(replace(shipped()["pi-5"], measured=hot)))
    assert found is not None
    assert found[0] == pytest.approx(0.5 * 3 * 2.0 * TRAINING_SHARE)


@pytest.mark.parametrize(
    "profile", [{}, {"cpu": "4x Cortex-A53", "cores": "4"}, {"cpu": 5, "clock_mhz": True}, {"measured": [1]}]
)
def test_a_device_may_say_anything(profile):
    assert training_gflops(profile) is None
