from __future__ import annotations

import csv
import json

import pytest

from tests.tinyfleet.bench.methods.rows import ROWS, row
from tinyfleet.bench.methods.tables import markdown, percent, spread, summaries, write_tables


def test_a_summary_is_mean_and_spread_of_the_finished_seeds():
    dense, tenth, hundredth, *_ = entries = summaries(ROWS)
    assert [(e.method, e.density) for e in entries] == [
        ("fedavg", 1.0),
        ("fedtiny", 0.1),
        ("fedtiny", 0.01),
        ("static", 0.1),
        ("static", 0.01),
    ]
    accuracy = dense.metrics["accuracy_last10"]
    assert (accuracy.count, accuracy.least, accuracy.most) == (3, 0.90, 0.95)
    assert accuracy.mean == pytest.approx(0.92)
    assert accuracy.deviation == pytest.approx(0.0264575, abs=1e-6)
    assert tenth.mean("memory_measured_mb") == pytest.approx(10.1)
    assert (hundredth.seeds, hundredth.failed) == (1, 1)
    assert entries[3].mean("accuracy_last10") is entries[4].mean("memory_measured_mb") is None


@pytest.mark.parametrize(
    ("values", "text"), [((0.5,), "50.0"), ((0.5, 0.6), "55.0 (50.0 to 60.0)"), ((0.4, 0.5, 0.6), "50.0 ± 10.0")]
)
def test_one_two_and_more_seeds_are_told_apart(values, text):
    assert percent(spread(values)) == text


def test_markdown_has_methods_by_densities_costs_and_failures():
    text = markdown([*ROWS, row("fedavg", 1.0, 0, 0.6, partition="dirichlet")], "t").splitlines()
    assert "| method | 100 % | 10 % | 1 % |" in text
    assert "| fedavg | 92.0 ± 2.6 |  |  |" in text
    assert "| fedtiny |  | 82.0 (80.0 to 84.0) | 70.0, 1 failed |" in text
    assert "| static |  | failed | 50.0 |" in text
    assert "| fedtiny | 10 % | 10.00 % | 0.2 | 0.100 | 100.0 | 200.0 | 4.10 | 10.1 | 30 |  |  |  |" in text
    assert "| static | 1 % | 1.00 % | 0.02 | 0.010 | 10.0 | 20.0 | 4.01 |  | 30 |  |  |  |" in text
    assert "- static, density 0.1, seed 0: ResultError: no data" in text
    assert [line for line in text if line.startswith("## ")] == [
        "## digits, iid",
        "## digits, dirichlet",
        "## Failed runs",
    ]


def test_files_hold_every_run(tmp_path):
    assert {path.name for path in write_tables(ROWS, "t", tmp_path)} == {
        "results.json",
        "results.csv",
        "results.md",
    }
    document = json.loads((tmp_path / "results.json").read_text())
    assert len(document["runs"]) == len(ROWS)
    assert document["runs"][0]["curve"] == [[5, pytest.approx(0.8)], [10, 0.9]]
    assert document["summaries"][0]["metrics"]["accuracy_last10"]["mean"] == pytest.approx(0.92)
    with (tmp_path / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [float(line["density"]) for line in lines] == [cell.density for cell in ROWS]
    assert lines[7]["status"] == "failed"
    assert lines[7]["accuracy_last10"] == ""
