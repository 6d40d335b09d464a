"""Runs a benchmark's cells in several processes; each finished one is on disk at once and not run again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path

import msgspec

from tinyfleet.bench.methods.cell import Cell, failed_cell, read_cell, run_cell, write_cell
from tinyfleet.bench.methods.config import CellSpec
from tinyfleet.bench.methods.memory import MeasuredStep, measure, measured_spec
from tinyfleet.fedcore.errors import TinyfleetError
from tinyfleet.fedcore.files import drop_temporaries, write_atomic
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.fedcore.training.registry import REFERENCE

TICK_S = 0.5
KILLED = "its process was killed, or another's beside it (out of memory?); run again, with fewer processes"


@dataclasses.dataclass(frozen=True, slots=True)
class Watcher:
    """Who hears of the benchmark's progress; all calls come from the thread that runs it."""

    finished: Callable[[Cell, int, int], None] = lambda cell, done, total: None
    running: Callable[[Mapping[str, int]], None] = lambda rounds: None  # training rounds by cell


def finished_cells(cells: Iterable[CellSpec], directory: Path) -> list[Cell]:
    """Rows of this configuration that are on disk, failed ones too."""
    return [row for row in (read_cell(directory, spec) for spec in cells) if row is not None]


def run_bench(
    cells: Sequence[CellSpec],
    directory: Path,
    processes: int,
    engine: str = REFERENCE.name,
    watcher: Watcher | None = None,
) -> list[Cell]:
    """Rows of all cells: finished ones read back, failed and missing ones run, in the order given."""
    watcher = watcher or Watcher()
    directory.mkdir(parents=True, exist_ok=True)
    drop_temporaries(directory)
    _clear_running(directory)
    rows = _done(cells, directory)
    while missing := [spec for spec in cells if spec.key not in rows]:
        with contextlib.closing(_run_pool(missing, directory, processes, engine, watcher)) as finished:
            for row, spec in finished:
                rows[spec.key] = row
                watcher.finished(row, len(rows), len(cells))
        rows = _done(cells, directory) | rows  # kept by a worker whose answer was lost
    return [rows[spec.key] for spec in cells]


def _done(cells: Iterable[CellSpec], directory: Path) -> dict[str, Cell]:
    rows = {spec.key: read_cell(directory, spec) for spec in cells}
    return {key: row for key, row in rows.items() if row is not None and row.status == "done"}


def _run_pool(
    missing: Sequence[CellSpec], directory: Path, processes: int, engine: str, watcher: Watcher
) -> Generator[tuple[Cell, CellSpec], None, None]:
    """Rows as they finish. Ends early where a process was killed: what ran then has failed, the rest is left."""
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(min(processes, len(missing)), mp_context=context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(_work, spec, directory, engine): spec for spec in missing}
        pending, lost = set(futures), list[CellSpec]()
        while pending:
            done, pending = wait(pending, TICK_S, FIRST_COMPLETED)
            watcher.running(_running(directory))
            for future in done:
                spec = futures[future]
                if isinstance(future.exception(), BrokenProcessPool):
                    lost.append(spec)
                else:
                    yield _row(spec, future, directory), spec
        yield from _killed(lost, directory)
        pool.shutdown()
    except BaseException:
        # Nobody waits for the cells that run: their workers go, finished ones are on disk.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        _clear_running(directory)


def _row(spec: CellSpec, future: Future[Cell], directory: Path) -> Cell:
    error = future.exception()
    if error is None:
        return future.result()
    row = failed_cell(spec, f"{type(error).__name__}: {error}")
    write_cell(directory, spec, row)
    return row


def _killed(lost: Sequence[CellSpec], directory: Path) -> Iterator[tuple[Cell, CellSpec]]:
    """Of the cells without an answer those that were running have failed; all, where none had come so far."""
    running = _running(directory)
    for spec in [spec for spec in lost if spec.key in running] or lost:
        row = failed_cell(spec, KILLED)
        write_cell(directory, spec, row)
        yield row, spec


# -- in a worker process ----------------------------------------------------------------


def _end_with_parent() -> None:
    """A worker leaves interrupts to its parent, and ends when that is gone however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


@lru_cache(maxsize=1)
def _engine(name: str) -> Engine:
    from tinyfleet.fedcore.training.registry import create

    return create(name, threads=1)


def _work(spec: CellSpec, directory: Path, engine: str) -> Cell:
    """Run one cell, measure its step's memory where that is not known yet, keep the row."""
    sign = _sign(directory, spec.key)

    def told(finished: int) -> None:
        sign.write_text(str(finished), encoding="ascii")

    told(0)
    try:
        row = run_cell(spec, _engine(engine), told)
        if row.status == "done":
            row = _with_memory(row, spec.spec, directory)
        write_cell(directory, spec, row)
    finally:
        sign.unlink(missing_ok=True)
    return row


def _with_memory(row: Cell, spec: RunSpec, directory: Path) -> Cell:
    """The row with measured memory; without it, and with the reason, where measuring failed."""
    try:
        measured = step_memory(spec, directory)
    except TinyfleetError as error:
        return dataclasses.replace(row, reason=str(error))
    return dataclasses.replace(row, peak_rss_mb=measured.peak_mb, baseline_rss_mb=measured.baseline_mb)


def step_memory(spec: RunSpec, directory: Path) -> MeasuredStep:
    """Memory of the run's heaviest measured step, from the directory where it is known."""
    settings = msgspec.json.encode(measured_spec(spec), order="deterministic")
    path = directory / f"memory-{hashlib.sha256(settings).hexdigest()[:16]}.json"
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=MeasuredStep)
    measured = max((measure(spec, "lightest"), measure(spec, "heaviest")), key=lambda m: m.peak_mb - m.baseline_mb)
    write_atomic(path, msgspec.json.encode(measured) + b"\n")
    return measured


# -- signs of running cells -------------------------------------------------------------


def _sign(directory: Path, key: str) -> Path:
    return directory / f"running-{key}"


def _running(directory: Path) -> dict[str, int]:
    """Finished training rounds of every running cell."""
    rounds = {}
    for path in sorted(directory.glob("running-*")):
        with contextlib.suppress(OSError, ValueError):  # just gone, or just being written
            rounds[path.name.removeprefix("running-")] = int(path.read_text(encoding="ascii"))
    return rounds


def _clear_running(directory: Path) -> None:
    for path in directory.glob("running-*"):
        path.unlink(missing_ok=True)
