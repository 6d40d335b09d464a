"""``tinyfleet data``: look at data before a run does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import Json, emit_json, emit_table

if TYPE_CHECKING:
    from tinyfleet.fedcore.datasets.check import DataWarning
    from tinyfleet.fedcore.foreign.data_description import DataDescription

app = typer.Typer(help="Data of one's own: what it means, and what is odd about it.", no_args_is_help=True)

WARNED = 1  # exit code: read, with warnings; what cannot be read has that of DataError


@app.callback()
def data() -> None:
    """A group, though it has one command."""


@app.command("check")
def check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As in data.source: image-folder:PATH, say.")],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with samples as pictures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a data set means, its classes, and what is odd: duplicates, leakage, imbalance, what was left out.

    Ends with 0 where nothing is odd, 1 with warnings, 6 where it cannot be read.
    """
    import logging

    from tinyfleet.fedcore.datasets.agreement import brief
    from tinyfleet.fedcore.datasets.check import warnings_of
    from tinyfleet.fedcore.datasets.registry import load
    from tinyfleet.fedcore.files import write_atomic

    reading = logging.getLogger("tinyfleet.fedcore.datasets")
    level = reading.level
    reading.setLevel(logging.ERROR)  # warnings are shown below, once
    try:
        found = load(source)
    finally:
        reading.setLevel(level)
    warnings = warnings_of(found.train, found.test)
    told = found.train.description
    test = found.test.description if found.test is not None else None
    if page is not None:
        from tinyfleet.report.data_page import data_page

        write_atomic(page, data_page(found.note, found.train, found.test, warnings).encode())
    if as_json:
        emit_json({"source": source, "description": told, "test": test, "warnings": list(warnings)})
    else:
        typer.echo(f"{found.note}: {brief(told)}")
        _show(told, test, warnings)
    if warnings:
        raise typer.Exit(WARNED)


def _show(told: DataDescription, test: DataDescription | None, warnings: list[DataWarning]) -> None:
    from tinyfleet.fedcore.foreign.shown import printable

    tests = test.samples if test is not None else ("",) * len(told.classes)
    rows = [
        (label, name, count, held)
        for label, (name, count, held) in enumerate(zip(told.classes, told.samples, tests, strict=True))
    ]
    emit_table(("label", "class", "training", "test"), rows, empty="no classes")
    for one in warnings:
        typer.echo(f"{one.kind}: {printable(one.message)}")
