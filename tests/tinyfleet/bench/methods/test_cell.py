from __future__ import annotations

import dataclasses

import pytest

from tests.tinyfleet.bench.methods.problems import TINY, tiny
from tinyfleet.bench.methods.cell import cell_path, read_cell, run_cell, write_cell
from tinyfleet.bench.methods.config import expand
from tinyfleet.fedcore.training.registry import create


def test_a_row_holds_what_the_run_cost_and_reached(tmp_path):
    dense, sparse = expand(tiny())
    heard: list[int] = []
    rows = [run_cell(spec, create(), heard.append) for spec in (dense, sparse)]
    for row in rows:
        assert (row.status, row.rounds) == ("done", 4)
        assert [r for r, _ in row.curve] == [2, 3, 4]
        assert row.accuracy_last10 == pytest.approx((row.curve[1][1] + row.curve[2][1]) / 2)
        assert row.accuracy_best == max(value for _, value in row.curve)
    assert heard == [1, 2, 3, 4, 0, 0, 1, 2, 3, 4]
    assert rows[1].bytes_up_round < rows[0].bytes_up_round
    assert rows[1].memory_analytic_mb < rows[0].memory_analytic_mb
    assert rows[1].flops_round_max < rows[0].flops_round_max
    assert rows[0].density_final == 1.0
    assert rows[1].density_final == pytest.approx(0.5, abs=0.01)
    # Dense FedAvg has no other steps than its rounds.
    assert rows[0].bytes_total == pytest.approx(4 * (rows[0].bytes_up_round + rows[0].bytes_down_round))


def test_divergence_is_a_row_too():
    text = TINY.replace("batch = 16", "batch = 16\nlearning_rate = 1e30\npretrain_epochs = 0").replace(
        "\npretrain_epochs = 1", ""
    )
    row = run_cell(expand(tiny(text))[0], create())
    assert row.status == "failed"
    assert "diverged" in row.reason
    assert row.accuracy_last10 is None


def test_a_cell_file_counts_only_for_its_own_spec(tmp_path):
    (spec, *_), (other, *_) = expand(tiny()), expand(tiny(last=3))
    row = dataclasses.replace(run_cell(spec, create()), peak_rss_mb=12.5)
    assert read_cell(tmp_path, spec) is None
    write_cell(tmp_path, spec, row)
    assert read_cell(tmp_path, spec) == row
    assert cell_path(tmp_path, spec) == cell_path(tmp_path, other)
    assert read_cell(tmp_path, other) is None
    cell_path(tmp_path, spec).write_bytes(b'{"method": "fed')
    assert read_cell(tmp_path, spec) is None
