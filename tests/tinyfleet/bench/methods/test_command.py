from __future__ import annotations

import io
import json
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console

from tests.patience import PATIENCE_S
from tests.tinyfleet.bench.methods.problems import TINY, tiny
from tests.tinyfleet.bench.methods.rows import failed, row
from tinyfleet.bench.methods.cell import failed_cell, write_cell
from tinyfleet.bench.methods.config import expand, shipped
from tinyfleet.bench.methods.progress import BenchProgress


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def planted(config, directory, **changes):
    """A directory with FedAvg's finished cell."""
    directory.mkdir()
    spec = expand(tiny())[0]
    where = {"dataset": spec.dataset, "partition": spec.partition, "digest": spec.digest}
    write_cell(directory, spec, row("fedavg", 1.0, 0, 0.9, **(where | changes)))
    return directory


def test_shipped_benchmarks_are_listed(tinyfleet):
    ran = tinyfleet("bench", "methods", "--list")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()] == list(shipped())
    assert all(len(line.split()) > 4 for line in ran.out.splitlines())


def test_help_names_the_options(tinyfleet):
    ran = tinyfleet("bench", "methods", "--help")
    assert ran.code == 0
    for word in ("--directory", "--processes", "--only", "--density", "--report-only", "--list"):
        assert word in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a benchmark"),
        (("--only", "fedavgg"), "fedavg, fedtiny"),
        (("--density", "0.3"), "1, 0.5"),
        (("--report-only",), "no run of benchmark tiny"),
    ],
)
def test_mistakes_are_told(tinyfleet, config, tmp_path, words, message):
    file = () if not words else (config,)
    ran = tinyfleet("bench", "methods", *file, *words, "--directory", tmp_path / "out")
    assert ran.code == 2
    assert message in ran.err


def test_a_report_shows_what_is_finished(tinyfleet, config, tmp_path):
    directory = planted(config, tmp_path / "out")
    ran = tinyfleet("bench", "methods", config, "--directory", directory, "--report-only")
    assert ran.code == 0, ran.err
    assert "| fedavg | 90.0 |" in ran.out == (directory / "results.md").read_text() + "\n"
    assert "1 of 2 runs" in ran.err
    assert list(directory.glob("accuracy-density-*.svg"))


def test_a_failed_run_is_told_and_ends_with_one(tinyfleet, config, tmp_path):
    directory = planted(config, tmp_path / "out")
    spec = expand(tiny())[1]
    write_cell(directory, spec, failed_cell(spec, "ResultError: training diverged"))
    ran = tinyfleet("bench", "methods", config, "--directory", directory, "--report-only")
    assert ran.code == 1
    assert "failed: fedtiny, density 0.5" in ran.err
    assert "training diverged" in ran.err


def test_without_a_terminal_progress_is_a_line_a_run():
    console = Console(file=io.StringIO(), width=200)
    with BenchProgress(console, expand(tiny())) as progress:
        progress.running({expand(tiny())[0].key: 2, "unknown": 1})
        progress.finished(row("fedavg", 1.0, 0, 0.9), 1, 2)
        progress.finished(failed("fedtiny", 0.5, 0, "ResultError: [no] data"), 2, 2)
    assert console.file.getvalue().splitlines() == [
        "1/2 fedavg, density 1, digits, seed 0: 90.0% (30 s)",
        "2/2 fedtiny, density 0.5, digits, seed 0: failed: ResultError: [no] data (0 s)",
    ]


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_where_it_was(tmp_path):
    file, directory = tmp_path / "tiny.toml", tmp_path / "out"
    file.write_text(TINY.replace("seeds = [0]", "seeds = [0, 1, 2]").replace("rounds = 4", "rounds = 20"))
    words = [
        sys.executable,
        "-c",
        "from tinyfleet.cli import main; main()",
        *("bench", "methods", str(file), "--directory", str(directory), "--processes", "2"),
    ]
    parent = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not list(directory.glob("cell-*.json")) and parent.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = parent.children(recursive=True)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []
    before = {path: path.stat().st_mtime_ns for path in directory.glob("cell-*.json")}
    assert 0 < len(before) < 6
    again = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert again.returncode == 0, again.stderr
    assert "6/6" in again.stderr
    assert len(list(directory.glob("cell-*.json"))) == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not [path for path in directory.iterdir() if path.name.startswith(("running-", "."))]
    runs = json.loads((directory / "results.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["done"] * 6
    assert all(run["peak_rss_mb"] > run["baseline_rss_mb"] > 0 for run in runs)
