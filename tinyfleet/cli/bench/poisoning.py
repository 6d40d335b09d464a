"""``tinyfleet bench poisoning``: what hostile devices cost under each aggregate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import emit_table, save_rows


def poisoning(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to this file.")
    ] = None,
    aggregate: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    share: Annotated[
        list[float] | None, typer.Option(min=0.1, max=0.5, help="Of hostile devices: 0.1, 0.2 and 0.3.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many, from 0.")] = 1,
) -> None:
    """Accuracy of a small digits job with hostile devices, by attack, aggregate and their share."""
    from tinyfleet.bench.poisoning import AGGREGATES, ATTACKS, SHARES, bench_poisoning
    from tinyfleet.fedcore.errors import ConfigError
    from tinyfleet.fedcore.training.registry import create

    for given, known in ((aggregate, AGGREGATES), (attack, ATTACKS)):
        odd = sorted(set(given or ()) - set(known))
        if odd:
            raise ConfigError(f"{odd[0]!r} is none of {', '.join(known)}")
    logging.getLogger("tinyfleet").setLevel(logging.ERROR)  # each refused result would be a line
    rows = []
    for row in bench_poisoning(
        create("auto", 1), aggregate or AGGREGATES, attack or tuple(ATTACKS), share or SHARES, range(seeds)
    ):
        rows.append(row)
        typer.echo(f"{row.aggregate} {row.attack} {row.share:g}: {row.accuracy:.3f}", err=True)
    if json_file is not None:
        save_rows(json_file, rows)
    emit_table(
        ("aggregate", "attack", "hostile", "accuracy", "refused"),
        [
            (row.aggregate, row.attack or "none", f"{row.share:.0%}", f"{row.accuracy:.1%}", str(sum(row.refused)))
            for row in rows
        ],
        empty="nothing was run",
    )
