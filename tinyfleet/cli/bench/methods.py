"""``tinyfleet bench methods``: methods against each other, simulated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.training.registry import ENGINES, REFERENCE

if TYPE_CHECKING:
    from tinyfleet.bench.methods.cell import Cell
    from tinyfleet.bench.methods.config import CellSpec

ENGINE_NAMES = ", ".join(facts.name for facts in ENGINES)


def methods(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG.toml", help="A file, or the name of one that comes with tinyfleet.")
    ] = "",
    show: Annotated[bool, typer.Option("--list", help="List the files that come with tinyfleet.")] = False,
    data: Annotated[str | None, typer.Option(metavar="SOURCE", help="Instead of the file's data source.")] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Finished cells and the report; an interrupted run goes on from them. Default: bench-NAME."
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Cells at a time, each on one thread.")] = 1,
    engine: Annotated[
        str,
        typer.Option(
            help=f"What trains the cells: {ENGINE_NAMES}. Memory is always measured with torch on the CPU."
        ),
    ] = REFERENCE.name,
    only: Annotated[
        list[str] | None, typer.Option(metavar="METHOD", help="Only this one; may be repeated.")
    ] = None,
    density: Annotated[list[float] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing: tables and plots as it is.")
    ] = False,
) -> None:
    """Accuracy, bytes, FLOPs and memory of federated methods over densities, data sets and seeds.

    Every finished run is a file at once. A run that fails is reported, the others go on; the next call
    tries it again. Exit code 1 where any failed.
    """
    from tinyfleet.bench.methods.config import expand, read_config, shipped

    if show:
        for name, path in shipped().items():
            first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
            typer.echo(f"{name:<14} {first}")
        return
    if not config:
        raise ConfigError("name a benchmark: a TOML file, or one that --list shows")
    settings = read_config(config)
    everything = expand(settings, data)
    cells = _chosen(everything, only or (), density or ())
    directory = directory or Path(f"bench-{settings.name}")
    if not report_only:
        _run(cells, directory, processes, engine)
    # Tables and plots show all that is finished, whatever was chosen to run now.
    rows = _report(everything, directory, settings.name)
    failed = [row for row in rows if row.status == "failed"]
    for row in failed:
        typer.echo(f"failed: {_title(row)}: {row.reason}", err=True)
    if failed:
        sys.exit(1)


def _chosen(cells: Sequence[CellSpec], only: Sequence[str], densities: Sequence[float]) -> list[CellSpec]:
    """The cells that both filters let through. Raises ``ConfigError`` for a filter that fits no cell."""
    methods_, known = dict.fromkeys(cell.method for cell in cells), dict.fromkeys(cell.density for cell in cells)
    for name in only:
        if name not in methods_:
            raise ConfigError(f"--only {name!r}: this benchmark has {', '.join(methods_)}")
    for value in densities:
        if value not in known:
            raise ConfigError(f"--density {value:g}: this benchmark has {', '.join(f'{d:g}' for d in known)}")
    return [
        cell for cell in cells if (not only or cell.method in only) and (not densities or cell.density in densities)
    ]


def _run(cells: Sequence[CellSpec], directory: Path, processes: int, engine: str) -> None:
    from rich.console import Console

    from tinyfleet.bench.methods.progress import BenchProgress
    from tinyfleet.bench.methods.runner import Watcher, run_bench
    from tinyfleet.fedcore.training.registry import create, require

    # Both raise here, not once a cell.
    require(REFERENCE.name)  # measures memory, whatever trains
    create(engine)
    with BenchProgress(Console(stderr=True), cells) as progress:
        run_bench(cells, directory, processes, engine, Watcher(progress.finished, progress.running))


def _report(cells: Sequence[CellSpec], directory: Path, name: str) -> list[Cell]:
    from tinyfleet.bench.methods.plots import write_plots
    from tinyfleet.bench.methods.runner import finished_cells
    from tinyfleet.bench.methods.tables import markdown, write_tables

    rows = finished_cells(cells, directory)
    if not rows:
        raise ConfigError(f"{directory}: no run of benchmark {name} is finished there")
    written = [*write_tables(rows, name, directory), *write_plots(rows, directory)]
    typer.echo(markdown(rows, name))
    typer.echo(f"{len(rows)} of {len(cells)} runs; {len(written)} files in {directory}", err=True)
    return rows


def _title(row: Cell) -> str:
    return f"{row.method}, density {row.density:g}, {row.dataset}, {row.partition}, seed {row.seed}"
