"""``tinyfleet bench inference``: deployed models in the runtimes that are here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import emit_table, save_rows

COLUMNS = (
    "model",
    "density",
    "format",
    "runtime",
    "bytes",
    "ms",
    "over native",
    "CPU ms",
    "over native",
    "peak MB",
    "above numpy",
    "error",
)


def inference(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to this file.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    density: Annotated[list[float] | None, typer.Option(help="0.01, 0.05 and 0.1; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that every file has its turn.")] = 10,
) -> None:
    """Latency, memory and file of deployed sparse models: the native engine against onnxruntime and LiteRT."""
    from tinyfleet.bench.inference import DENSITIES, MODELS, bench_inference

    def told(what: str, done: int, total: int) -> None:
        typer.echo(f"\r{done}/{total} {what}                ", err=True, nl=False)

    rows = bench_inference(model or MODELS, density or DENSITIES, rounds, told)
    typer.echo("", err=True)
    save_rows(json_file, rows)
    emit_table(
        COLUMNS,
        [
            (
                row.model,
                f"{row.density:g}",
                row.format,
                row.runtime,
                f"{row.file_bytes:,}",
                f"{row.latency_ms:.3f}",
                f"{row.latency_ratio:.2f}",
                f"{row.cpu_ms:.3f}",
                f"{row.cpu_ratio:.2f}",
                f"{row.peak_mb:.1f}",
                f"{row.memory_mb:.1f}",
                f"{row.max_rel_error:.1e}",
            )
            for row in rows
        ],
        empty="nothing was measured",
    )
