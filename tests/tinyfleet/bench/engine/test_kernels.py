"""The kernels' table and its picture: every shape and density is in it, against bounds that were measured."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("sparse_engine")

from sparse_engine.kernels.timing import Seconds
from sparse_engine.program.tape import DENSE_FROM
from tinyfleet.bench.engine import kernels
from tinyfleet.bench.engine.bounds import USUAL, Bounds, cache_bytes, measure_bounds
from tinyfleet.bench.engine.kernels import bench_kernels, shapes
from tinyfleet.bench.engine.roofline import plot_roofline
from tinyfleet.cli.app import app

BOUNDS = Bounds("test", 4, 1 << 15, 1 << 19, 100.0, 60.0, 40.0, 10.0)
PNG = b"\x89PNG"


@pytest.fixture
def known_times(monkeypatch):
    """A sparse kernel takes a second at density 1, the dense one a quarter; nothing is measured."""
    sixth = 1 / 6

    def timed(self, density, *, dense, seconds):
        whole = 0.25 if dense else density
        return Seconds(whole * sixth, whole * 2 * sixth, whole * 3 * sixth)

    monkeypatch.setattr("sparse_engine.kernels.timing.TimedConvolution.time", timed)
    monkeypatch.setattr(kernels, "measure_bounds", lambda: BOUNDS)


def test_every_shape_has_its_kernels_at_every_density(known_times):
    report = bench_kernels(["resnet18", "mobilenet_v2"], [0.1, 0.5], 2, 0.0, lambda text: None)
    found = {row.shape for row in report.rows}
    assert found == {shape for _, shape, _ in shapes(["resnet18", "mobilenet_v2"])}
    grouped = {shape for shape in found if "groups" in shape}
    assert any("stride 2x2" in shape for shape in grouped)
    assert any(shape.startswith("1x1") for shape in found)
    assert len(report.rows) == 3 * len(found) - len(grouped)  # grouped ones have no dense kernel
    assert {crossover.shape for crossover in report.crossovers} == found - grouped
    assert all(crossover.density == pytest.approx(0.25) for crossover in report.crossovers)


def test_speeds_are_those_of_nonzero_weights(known_times):
    report = bench_kernels(["resnet18"], [0.1], 2, 0.0, lambda text: None)
    row = next(r for r in report.rows if r.shape.startswith("3x3 of 64 to 64 at 32x32") and r.kernel == "sparse")
    flops = 2 * round(0.1 * 64 * 64 * 9) * 32 * 32 * 2
    assert row.forward_gflops == pytest.approx(flops / 1e9 * 60)
    assert row.gflops == pytest.approx(3 * flops / 1e9 / 0.1)
    tensors = 4 * 2 * (64 + 64) * 32 * 32
    assert row.intensity == pytest.approx(flops / (tensors + 8 * 0.1 * 64 * 64 * 9), rel=1e-3)


@pytest.mark.parametrize(
    ("gflops", "intensity", "limit"),
    [(5, 1, "memory"), (20, 3, "memory"), (35, 8, "L2 operands"), (50, 8, "L1 operands"), (90, 8, "registers"),
     (120, 8, "registers")],
)  # fmt: skip
def test_the_nearest_bound_above_is_named(gflops, intensity, limit):
    assert BOUNDS.limit(gflops, intensity) == limit


def test_caches_are_read_from_the_kernel_or_guessed(tmp_path):
    assert cache_bytes(tmp_path) == USUAL
    for index, (kind, level, size) in enumerate(
        [("Data", 1, "48K"), ("Instruction", 1, "64K"), ("Unified", 2, "x")]
    ):
        cache = tmp_path / f"index{index}"
        cache.mkdir()
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (cache / name).write_text(f"{value}\n")
    assert cache_bytes(tmp_path) == {**USUAL, 1: 48 << 10}


@pytest.mark.slow
def test_bounds_are_measured():
    found = measure_bounds()
    assert min(found.registers_gflops, found.l1_gflops, found.l2_gflops, found.memory_gbs) > 0


def test_one_shape_is_really_timed(monkeypatch):
    monkeypatch.setattr(kernels, "measure_bounds", lambda: BOUNDS)
    first = next(iter(shapes(["resnet20"])))
    monkeypatch.setattr(kernels, "shapes", lambda models: [first])
    report = bench_kernels(["resnet20"], [0.01, 1.0], 2, 0.0, lambda text: None)
    assert [(row.kernel, row.density) for row in report.rows] == [("sparse", 0.01), ("sparse", 1.0), ("dense", 1.0)]
    assert all(row.gflops > 0 for row in report.rows)


@pytest.mark.slow
def test_the_command_writes_rows_and_draws(known_times, tmp_path):
    file, plot = tmp_path / "kernels.json", tmp_path / "pictures" / "roofline.png"
    arguments = ["bench", "kernels", "--quick", "--model", "resnet18", "--json", str(file), "--plot", str(plot)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"default {DENSE_FROM:g}" in result.output
    written = json.loads(file.read_text())
    assert written["bounds"]["l2_gflops"] == 40.0
    assert {row["density"] for row in written["rows"]} == {0.01, 0.05, 0.1, 0.3, 1.0}
    assert plot.read_bytes().startswith(PNG)


def test_a_roofline_may_be_svg(known_times, tmp_path):
    plot_roofline(bench_kernels(["resnet20"], [0.1], 1, 0.0, lambda text: None), tmp_path / "a.svg")
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
