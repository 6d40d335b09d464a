"""Warnings where a measurement and the shipped profile disagree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tinyfleet.device_profiles.measuring.compare import differences, disagreements
from tinyfleet.device_profiles.profile import Measurement, Rate, Thermal, shipped

PI = shipped()["pi-4b"]
RATES = (Rate("dense", 1.0, "fp32", 10.0), Rate("sparse", 0.1, "fp16", 0.5))
GOOD = Measurement(
    750_000_000,
    4,
    8.0,
    4.0,
    20.0,
    rates=RATES,
    thermal=Thermal(60, 4, 30.0, 0.99, 45.0, 70.0, 1500.0, 1500.0, False),
)
MEASURED = replace(PI, measured=GOOD, verified=True)  # as shipped once one was measured


def figures(promised=PI, memory_bytes=950_000_000, **changes):
    found = replace(PI, memory_bytes=memory_bytes, measured=replace(GOOD, **changes))
    return [warning.figure for warning in disagreements(found, promised)]


def test_a_board_as_its_data_sheet_says_disagrees_with_nothing():
    assert figures() == figures(MEASURED) == []


def heat(**changes):
    return replace(GOOD.thermal, **changes)


@pytest.mark.parametrize(
    ("changes", "figure"),
    [
        ({"memory_bytes": 400_000_000, "usable_memory_bytes": 300_000_000}, "memory_bytes"),
        ({"usable_memory_bytes": 300_000_000}, "usable_memory_bytes"),
        ({"cores": 1}, "cores"),
        ({"cores": 8}, "cores"),
        ({"thermal": heat(start_clock_mhz=600.0)}, "clock_mhz under load"),
        ({"thermal": heat(sustained_share=0.7)}, "sustained_share"),
        ({"thermal": heat(throttled=True)}, "sustained_share"),
    ],
)
def test_what_disagrees_with_a_data_sheet(changes, figure):
    assert figures(**changes) == [figure]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"convolution_gflops": 5.0}, ["convolution_gflops"]),
        ({"memory_bandwidth_gbs": 6.0, "disk_write_mbs": 5.0}, ["memory_bandwidth_gbs", "disk_write_mbs"]),
        ({"rates": (RATES[0], replace(RATES[1], gflops=0.2))}, ["gflops sparse fp16 0.1"]),
        ({"rates": RATES[:1]}, []),
        ({"engine": "torch", "convolution_gflops": 40.0, "rates": (replace(RATES[0], gflops=50.0),)}, []),
        ({"thermal": heat(sustained_share=0.8)}, ["sustained_share"]),
        ({"thermal": None}, []),
    ],
)
def test_what_disagrees_with_a_measured_profile(changes, wanted):
    assert figures(MEASURED, **changes) == wanted


def test_a_measured_profile_knows_how_warm_its_kind_gets():
    warm = replace(MEASURED, measured=replace(GOOD, thermal=heat(sustained_share=0.75)))
    assert figures(warm, thermal=heat(sustained_share=0.7)) == []


def test_a_warning_names_both_values_and_the_remedy():
    found = replace(PI, measured=replace(GOOD, cores=1))
    (warning,) = disagreements(found)
    assert (warning.here, warning.shipped) == (1, 4)
    assert str(warning).startswith("cores is 1 here, 4 in the shipped profile; affinity, a CPU quota")
    (warning,) = disagreements(replace(PI, memory_bytes=400_000_000, measured=GOOD))
    assert str(warning).startswith("memory_bytes is 400 MB here, 1000 MB in")


def test_what_is_not_shipped_or_not_measured_disagrees_with_nothing():
    odd = replace(GOOD, cores=1, usable_memory_bytes=1)
    assert disagreements(replace(PI, name="mine", measured=odd)) == []
    assert disagreements(replace(shipped()["generic"], measured=odd)) == []
    assert disagreements(PI) == []


def test_two_measurements_differ_by_what_the_larger_has_more():
    slower = (Rate("dense", 1.0, "fp32", 8.0), Rate("sparse", 0.1, "fp16", 0.5))
    other = replace(GOOD, rates=slower, disk_write_mbs=30.0)
    found = differences(GOOD, other)
    assert [difference.figure for difference in found[:2]] == ["disk_write_mbs", "gflops dense fp32 1"]
    assert [difference.share for difference in found] == pytest.approx([0.5, 0.25, 0.0, 0.0, 0.0])
    assert (found[1].first, found[1].second) == (10.0, 8.0)


def test_engines_are_not_compared_and_nothing_is_infinitely_less():
    found = differences(GOOD, replace(GOOD, engine="torch", disk_write_mbs=0.0))
    assert [(d.figure, d.share) for d in found] == [("disk_write_mbs", math.inf), ("memory_bandwidth_gbs", 0.0)]
