from __future__ import annotations

import dataclasses
import multiprocessing

import msgspec
import pytest

from tests.tinyfleet.bench.methods.problems import TINY, tiny
from tinyfleet.bench.methods import runner
from tinyfleet.bench.methods.cell import Cell, failed_cell, read_cell, write_cell
from tinyfleet.bench.methods.config import expand
from tinyfleet.bench.methods.memory import MeasuredStep
from tinyfleet.bench.methods.runner import KILLED, Watcher, finished_cells, run_bench, step_memory

DIVERGING = TINY.replace(
    'method = { name = "fedavg" }', 'method = { name = "fedavg" }\ntraining = { learning_rate = 1e30 }'
)


def plant(directory, spec, accuracy: float) -> Cell:
    cell = failed_cell(spec, "")
    cell = dataclasses.replace(cell, status="done", reason="", accuracy_last10=accuracy)
    write_cell(directory, spec, cell)
    return cell


@pytest.fixture
def no_measuring(tmp_path, monkeypatch) -> None:
    """Memory is known already: planted, for a worker reads it from the directory."""
    monkeypatch.setattr(
        runner, "measure", lambda spec, kind: MeasuredStep(100.0, 110.0 if kind == "heaviest" else 105.0)
    )
    for text in (TINY, DIVERGING):
        for spec in expand(tiny(text)):
            assert step_memory(spec.spec, tmp_path) == MeasuredStep(100.0, 110.0)


def test_finished_cells_are_not_run_again(tmp_path):
    cells = expand(tiny(seeds=(0, 1)))
    planted = [plant(tmp_path, spec, 0.5) for spec in cells]
    assert run_bench(cells, tmp_path, 2) == planted == finished_cells(cells, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_measuring")
def test_changed_missing_and_failed_cells_run_and_a_failure_stops_nothing(tmp_path):
    dense, sparse = expand(tiny(DIVERGING))
    plant(tmp_path, expand(tiny())[0], 0.123)  # the same cell before its learning rate was changed
    write_cell(tmp_path, sparse, failed_cell(sparse, "the lights went out"))
    told: list[tuple[str, int, int]] = []
    rows = run_bench([dense, sparse], tmp_path, 1, watcher=Watcher(lambda c, d, n: told.append((c.status, d, n))))
    assert told == [("failed", 1, 2), ("done", 2, 2)]
    assert rows == finished_cells([dense, sparse], tmp_path)
    assert "diverged" in rows[0].reason
    assert (rows[1].reason, rows[1].baseline_rss_mb, rows[1].peak_rss_mb) == ("", 100.0, 110.0)
    assert not list(tmp_path.glob("running-*"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_measuring")
def test_a_killed_worker_fails_its_cell_alone(tmp_path):
    first, second = expand(tiny())
    rounds = msgspec.structs.replace(first.spec.training, rounds=500)
    endless = dataclasses.replace(first, spec=msgspec.structs.replace(first.spec, training=rounds))

    def kill(running) -> None:
        if first.key in running:
            for worker in multiprocessing.active_children():
                worker.kill()

    rows = run_bench([endless, second], tmp_path, 1, watcher=Watcher(running=kill))
    assert [(row.status, row.reason) for row in rows] == [("failed", KILLED), ("done", "")]
    assert read_cell(tmp_path, endless) == rows[0]
