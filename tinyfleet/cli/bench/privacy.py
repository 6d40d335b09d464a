"""``tinyfleet bench privacy``: what differential privacy costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import emit_table, save_rows


def privacy(
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write each row to this file; its rows are not run again."),
    ] = None,
    mode: Annotated[list[str] | None, typer.Option(help="none, central or local only; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many, from 0.")] = 1,
) -> None:
    """Accuracy of a small digits job against epsilon, with its bytes and seconds, beside the plain one."""
    import msgspec

    from tinyfleet.bench.privacy import CELLS, PrivacyRow, bench_privacy
    from tinyfleet.fedcore.errors import ConfigError
    from tinyfleet.fedcore.training.registry import create

    known = tuple(dict.fromkeys(cell.mode for cell in CELLS))
    if odd := sorted(set(mode or ()) - set(known)):
        raise ConfigError(f"{odd[0]!r} is none of {', '.join(known)}")
    rows: list[PrivacyRow] = []
    if json_file is not None and json_file.exists():
        rows = msgspec.json.decode(json_file.read_bytes(), type=list[PrivacyRow])
    rows = [row for row in rows if len(row.accuracies) >= seeds]
    done = {row.cell for row in rows}
    order = {cell: number for number, cell in enumerate(CELLS)}
    cells = [cell for cell in CELLS if cell.mode in (mode or known) and cell not in done]
    for row in bench_privacy(create("auto", 1), cells, range(seeds)):
        rows.append(row)
        rows.sort(key=lambda one: order.get(one.cell, len(order)))
        typer.echo(f"{row.mode} {row.noise:g} density {row.density:g} {row.norm}: {row.accuracy:.3f}", err=True)
        save_rows(json_file, rows)
    emit_table(
        ("privacy", "noise", "epsilon", "density", "norm", "accuracy", "up", "down", "s/round"),
        [
            (
                row.mode,
                f"{row.noise:g}",
                "" if row.epsilon is None else f"{row.epsilon:.3g}",
                f"{row.density:g}",
                row.norm,
                f"{row.accuracy:.1%}",
                f"{row.bytes_up:,.0f}",
                f"{row.bytes_down:,.0f}",
                "" if row.seconds is None else f"{row.seconds:.2f}",
            )
            for row in rows
        ],
        empty="nothing was run",
    )
