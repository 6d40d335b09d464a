"""``tinyfleet bench poisoning``: what hostile devices cost under each aggregate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import emit_table


def poisoning(
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Keep the rows in this file; those in it are not run again."),
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Of these; fedavg by default. May be repeated.")] = None,
    aggregate: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(min=0.1, max=0.4, help="Of hostile devices: 0.1, 0.2 and 0.3 by default.")
    ] = None,
    uneven: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01, help="Honest fleets with data of this Dirichlet alpha instead, with and without limits."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="1, 2 and 3 by default; limits were tuned on 0.")
    ] = None,
) -> None:
    """Accuracy of a small digits job with hostile devices, by method, aggregate, attack and their share."""
    from tinyfleet.bench.poisoning.attacks import ATTACKS
    from tinyfleet.bench.poisoning.runner import (
        AGGREGATES,
        METHODS,
        SEEDS,
        SHARES,
        bench_poisoning,
        cells,
        uneven_cells,
    )
    from tinyfleet.fedcore.errors import ConfigError
    from tinyfleet.fedcore.training.registry import create

    for given, known in ((method, METHODS), (aggregate, AGGREGATES), (attack, ATTACKS)):
        odd = sorted(set(given or ()) - set(known))
        if odd:
            raise ConfigError(f"{odd[0]!r} is none of {', '.join(known)}")
    logging.getLogger("tinyfleet").setLevel(logging.ERROR)  # each refused result would be a line
    methods = method or ["fedavg"]
    wanted = cells(methods, aggregate or AGGREGATES, attack or tuple(ATTACKS), share or SHARES)
    if uneven:
        wanted = uneven_cells(methods, uneven)
    rows = []
    for row in bench_poisoning(wanted, seed or SEEDS, create("auto", 1), json_file):
        rows.append(row)
        name = f"{row.method} {row.aggregate} {row.attack or 'none'} {row.share:g}"
        typer.echo(f"{name}: {row.accuracy:.3f}", err=True)
    emit_table(
        ("method", "aggregate", "attack", "hostile", "limits", "accuracy", "refused", "honest ones refused"),
        [
            (
                row.method,
                row.aggregate,
                row.attack or "none",
                f"{row.share:.0%}",
                "on" if row.limited else "off",
                f"{row.accuracy:.1%}",
                str(sum(row.refused)),
                str(sum(row.refused_honest)),
            )
            for row in rows
        ],
        empty="nothing was run",
    )
