"""What a run would be on a board, and what would make it fit."""

from __future__ import annotations

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from tinyfleet.cli.app import app
from tinyfleet.device_profiles.known_boards import board
from tinyfleet.device_profiles.profile import Measurement
from tinyfleet.device_profiles.speed import core_gflops
from tinyfleet.fedcore.planning.cost_model_file import save, shipped
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.native.facts import NATIVE
from tinyfleet.planning import plan_board

SPEC = RunSpec(
    method={"name": "fedtiny"}, model=ModelSettings("resnet18", (3, 32, 32)), training=TrainingSettings(batch=64)
)
TORCH = shipped("torch")


def measured(name, memory, gflops):
    measurement = Measurement(memory, 4, gflops, 1.0, 10.0)
    return dataclasses.replace(board(name), measured=measurement)


def test_a_roomy_board_runs_whole_batches_and_a_small_one_smaller_passes():
    roomy = plan_board(SPEC, board("pi-5"), TORCH, 500)
    small = plan_board(SPEC, board("pi-3b-plus"), TORCH, 500, memory_bytes=650_000_000)
    assert (roomy.fits, roomy.levers.micro_batch, roomy.levers.lossy) == (True, 0, False)
    assert small.fits
    assert small.levers.micro_batch > 0
    assert small.peak_bytes < roomy.peak_bytes
    assert small.round_seconds > roomy.round_seconds


def test_what_does_not_fit_says_what_would():
    plan = plan_board(SPEC, board("pi-zero-2w"), TORCH, 500, memory_bytes=340_000_000)
    assert not plan.fits
    assert "limits.memory_limit" in plan.remedies[0]
    assert plan.remedies[1].startswith("model ")
    limit = int(plan.remedies[0].split(" of ")[1].split("M")[0]) * 10**6 + 10**6
    assert plan_board(SPEC, board("pi-zero-2w"), TORCH, 500, memory_bytes=limit).fits
    name = plan.remedies[1].split()[1]
    other = RunSpec(method=SPEC.method, model=ModelSettings(name, (3, 32, 32)), training=SPEC.training)
    assert plan_board(other, board("pi-zero-2w"), TORCH, 500, memory_bytes=340_000_000).fits


def test_measured_figures_come_before_data_sheets():
    plan = plan_board(SPEC, measured("pi-4b", 800_000_000, 2.0), TORCH, 500)
    assert (plan.memory_basis, plan.speed_basis) == ("measured", "measured")
    assert plan.limit_bytes == 600_000_000
    faster = plan_board(SPEC, measured("pi-4b", 800_000_000, 4.0), TORCH, 500)
    assert plan.round_seconds == pytest.approx(2 * faster.round_seconds)
    sheet = plan_board(SPEC, board("pi-4b"), TORCH, 500)
    assert (sheet.memory_basis, sheet.speed_basis) == ("data sheet", "data sheet")
    own = plan_board(SPEC, board("pi-4b"), TORCH, 500, own=True)
    assert own.speed_basis == "own cost model"


def test_a_board_that_does_not_tell_its_speed_gets_no_time():
    unknown = dataclasses.replace(board("pi-4b"), cpu="4x something", clock_mhz=0)
    assert core_gflops(unknown) is None
    plan = plan_board(SPEC, unknown, TORCH, 500, memory_bytes=650_000_000)
    assert plan.round_seconds is None
    assert plan.fits


RUN = """
[method]
name = "fedtiny"
[model]
name = "small_cnn"
input_shape = [1, 28, 28]
[data.partition]
kind = "dirichlet"
devices = 5
"""


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(RUN, encoding="utf-8")
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_the_command_plans_every_board(run):
    result = invoke(run, "--json")
    assert result.exit_code == 0, result.output
    boards = {row["board"]: row for row in json.loads(result.stdout)["boards"]}
    assert boards["pi-4b"]["fits"]
    assert boards["pi-zero-2w"]["round_seconds"] > boards["pi-5"]["round_seconds"] > 0
    assert boards["pi-4b"]["samples"] > 100
    text = invoke(run, "--board", "pi-4b", "--samples", "100").stdout
    assert "whole batch" in text
    assert "data sheet" in text


def test_the_command_fails_where_it_fits_nowhere(run):
    result = invoke(run, "--board", "pi-zero-2w", "--memory", "100M", "--samples", "100", "--engine", "torch")
    assert result.exit_code == 1
    assert "NO" in result.stdout
    assert "would fit with a limit of" in result.stdout


@pytest.mark.skipif(bool(NATIVE.fault()), reason="sparse_engine is not installed")
def test_the_native_engine_fits_where_torch_does_not(run):
    board = ["--board", "pi-zero-2w", "--memory", "100M", "--samples", "100"]
    planned = json.loads(invoke(run, *board, "--engine", "native", "--json").stdout)["boards"][0]
    assert planned["fits"]
    assert planned["peak_bytes"] < 100_000_000
    assert planned["levers"]["recompute"] in (0, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "pi-9"], "pi-9"),
        (["--memory", "lots"], "lots"),
        (["--engine", "abacus"], "abacus"),
        (["--cost-model", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_options_are_told(run, arguments, said):
    result = invoke(run, "--samples", "100", *arguments)
    assert result.exit_code != 0
    assert said in result.output + str(result.exception)


def test_a_boards_own_cost_model_is_used(run, tmp_path):
    path = tmp_path / "cost_model.toml"
    save(TORCH.at_speed(1.0), path)
    shown = [
        json.loads(invoke(run, "--board", "here", "--samples", "100", "--json", *extra).stdout)["boards"][0]
        for extra in (["--engine", "torch"], ["--cost-model", str(path)])
    ]
    assert shown[1]["speed_basis"] == "own cost model"
    assert shown[1]["step_seconds"] == pytest.approx(shown[0]["step_seconds"] * TORCH.convolution_gflops)
