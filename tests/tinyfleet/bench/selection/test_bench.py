"""The selection benchmark: both policies on equal terms, resumable, and told as emulated."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest

from tinyfleet.bench.selection import clock, runner
from tinyfleet.bench.selection.clock import BOARDS, mixed_fleet
from tinyfleet.bench.selection.fleet import EmulatedFleet, Point
from tinyfleet.bench.selection.report import write_report
from tinyfleet.bench.selection.runner import DEFAULT, Curve, compare, met, run_bench, spec_of
from tinyfleet.coordinator.selection.policy import draw
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    PartitionSettings,
    RunSpec,
    TrainingSettings,
)
from tinyfleet.fedcore.training.registry import create

SPEC = RunSpec(
    method={"name": "static", "density": 0.5, "pretrained": False},
    model=ModelSettings(input_shape=(1, 8, 8), arguments={"width": 4}),
    training=TrainingSettings(rounds=2, local_epochs=4, batch=8, pretrain_epochs=0),
    data=DataSettings("digits", limit=300, partition=PartitionSettings("dirichlet", 0.5, 10)),
    fleet=FleetSettings(cohort=4),
)


@pytest.fixture(scope="module")
def engine():
    return create("torch", threads=1)


def test_boards_are_mixed_differ_from_their_profiles_and_repeat():
    fleet, again, other = mixed_fleet(10, 1), mixed_fleet(10, 1), mixed_fleet(10, 2)
    assert [board.board for board in fleet] == [*BOARDS, *BOARDS]
    assert len({board.device for board in fleet}) == 10
    assert [board.gflops for board in fleet] == [board.gflops for board in again]
    assert all(a.gflops != b.gflops for a, b in zip(fleet, other, strict=True))
    seconds = {board.board: board.training_s(1e9) for board in fleet}
    assert seconds["pi-zero-2w"] > seconds["pi-4b"] > seconds["pi-5"]
    assert [board.training_s(1e9) for board in fleet] != [board.training_s(1e9) for board in fleet]


def fleet_of(engine, policy, **fleet):
    spec = spec_of(SPEC, policy, 3)
    spec = msgspec.structs.replace(spec, fleet=msgspec.structs.replace(spec.fleet, **fleet))
    return EmulatedFleet(spec, engine, mixed_fleet(10, 3))


def test_random_selection_is_the_simulators_and_waits_for_the_slowest(engine):
    fleet = fleet_of(engine, "random")
    names = [device.data.name for device in fleet.devices]
    for step in range(2):
        chosen = draw(names, size=4, seed=3, step=step)
        assert tuple(device.data.name for device in fleet.cohort()) == chosen
        before = fleet.seconds
        point = fleet.advance()
        assert point.round_s == max(fleet.memory._times["train", name][-1][1] for name in chosen)
        assert point.seconds == fleet.seconds == before + point.round_s
        assert (point.parts, point.left_out, point.round) == (0, 0, step + 1)


def test_slow_boards_do_a_part_and_rounds_are_shorter(engine, monkeypatch):
    monkeypatch.setattr(clock, "START_S", 0.0)  # else it is most of so small a job
    capable = fleet_of(engine, "capability", cohort=10)
    for board in capable.boards.values():
        board.link = math.inf
    task = capable.method.configure_round(capable.state)
    whole = [
        capable.method.cost(task, len(device.data.train), 1).flops / capable.boards[device.data.name].gflops / 1e9
        for device in capable.devices
    ]
    point = capable.advance()
    assert point.parts > 0
    assert point.round_s < 0.8 * max(whole)
    part = next(device for device in capable.devices if device.steps)
    assert part.data.name in capable.memory.last_chosen("bench")


@pytest.mark.slow
def test_a_finished_run_is_not_run_again(engine, tmp_path):
    def forbidden():
        raise AssertionError("nothing is left to train")

    told = []
    curves = run_bench(SPEC, [0], 0.15, tmp_path, lambda: engine, lambda curve, done: told.append(done))
    assert [(curve.policy, curve.seed) for curve in curves] == [("random", 0), ("capability", 0)]
    assert told.count(True) == 2
    assert run_bench(SPEC, [0], 0.15, tmp_path, forbidden) == curves
    (tmp_path / "run-random-0.json").write_bytes(b"{")
    with pytest.raises(AssertionError, match="nothing is left"):
        run_bench(SPEC, [0], 0.15, tmp_path, forbidden)
    with pytest.raises(AssertionError, match="nothing is left"):
        run_bench(SPEC, [0], 0.16, tmp_path, forbidden)


def curve(policy, seed, target_s, accuracies=(0.5, 0.9, 0.9, 0.9)):
    points = [Point(float(i), i, accuracy, 1.0, 0, 0) for i, accuracy in enumerate(accuracies)]
    return Curve(policy, seed, 0.9, "d", target_s, points)


@pytest.mark.parametrize(
    ("accuracies", "reached"),
    [((0.9, 0.9), False), ((0.5, 0.9, 0.9), False), ((0.5, None, 0.8, 0.95, 0.96), True), ((), False)],
)
def test_one_lucky_round_is_not_the_target(accuracies, reached):
    assert met(curve("random", 0, None, accuracies)) is reached


def test_the_comparison_is_seed_by_seed():
    curves = [curve("random", s, t) for s, t in ((0, 30.0), (1, 10.0), (2, None), (3, 8.0))]
    curves += [curve("capability", s, t) for s, t in ((0, 10.0), (1, 5.0), (2, 4.0), (3, 8.0))]
    found = compare(curves)
    assert found.ratios == [3.0, 2.0, None, 1.0]
    assert found.median_ratio == 2.0
    assert compare(curves[:2]).median_ratio is None


def test_the_report_says_that_it_is_emulated(tmp_path):
    curves = [curve("random", 0, 30.0), curve("capability", 0, None)]
    paths = write_report(DEFAULT, curves, tmp_path)
    assert [path.suffix for path in paths] == [".json", ".svg", ".png"]
    document = json.loads(paths[0].read_text())
    assert "emulated" in document["note"]
    assert document["comparison"]["ratios"] == [None]
    assert np.all([path.stat().st_size > 1000 for path in paths])


@pytest.mark.slow
def test_the_command(tinyfleet, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "DEFAULT", SPEC)
    ran = tinyfleet("bench", "selection", "--seeds", 1, "--target", 0.15, "--directory", tmp_path)
    assert ran.code == 0
    assert "uniform random" in ran.out
    assert "emulated" in ran.err
    assert (tmp_path / "selection.png").exists()
