"""``tinyfleet bench``: numbers about tinyfleet itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fedcore.files import write_atomic
from tinyfleet.cli import bench_methods
from tinyfleet.cli.output import emit_table

app = typer.Typer(help="Measure tinyfleet itself.", no_args_is_help=True)
app.command("methods")(bench_methods.methods)

JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to this file.")]


@app.command()
def wire(
    json_file: JsonFile = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    density: Annotated[list[float] | None, typer.Option(help="0.01, 0.05, 0.1 and 1; may be repeated.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16, int8; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Times are medians of so many runs.")] = 5,
) -> None:
    """Bytes of a round in each direction, and the codec's time, by model, density and precision."""
    from fedcore.models.registry import names
    from tinyfleet.bench.wire import WireRow, bench_wire

    def told(row: WireRow, done: int, total: int) -> None:
        typer.echo(f"\r{done}/{total} {row.model} d={row.density:g} {row.precision}      ", err=True, nl=False)

    rows = bench_wire(
        model or names(), density or (0.01, 0.05, 0.1, 1.0), precision or ("fp16", "int8"), repeats, told
    )
    typer.echo("", err=True)
    _save(json_file, rows)
    emit_table(
        (
            "model",
            "density",
            "precision",
            "down",
            "down, new mask",
            "up",
            "socket down / up",
            "dense",
            "enc/dec ms",
        ),
        [
            (
                r.model,
                f"{r.density:g}",
                r.precision,
                f"{r.bytes_down:,}",
                f"{r.bytes_down_new_mask:,}",
                f"{r.bytes_up:,}",
                "no Mosquitto" if r.socket_bytes_up is None else f"{r.socket_bytes_down:,} / {r.socket_bytes_up:,}",
                f"{r.dense_bytes:,}",
                f"{r.encode_ms:.1f} / {r.decode_ms:.1f}",
            )
            for r in rows
        ],
        empty="nothing was measured",
    )


@app.command()
def caches(
    json_file: JsonFile = None,
    model: Annotated[list[str] | None, typer.Option(help="resnet18; may be repeated.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Samples of a training step.")] = 64,
) -> None:
    """Memory and time of a training step with exact and with pruned activation caches, in fresh processes."""
    from tinyfleet.bench.caches import CacheRow, bench_caches

    def told(row: CacheRow, done: int, total: int) -> None:
        typer.echo(
            f"\r{done}/{total} {row.model} {row.norm} keep {row.keep:g} {row.cache}      ", err=True, nl=False
        )

    rows = bench_caches(model or ["resnet18"], batch, told)
    typer.echo("", err=True)
    _save(json_file, rows)
    exact = {row.model: row.peak_mb for row in reversed(rows) if row.norm == "batch" and row.keep == 1.0}
    emit_table(
        (
            "model",
            "norm",
            "keep",
            "cache",
            "norms pruned",
            "peak MB",
            "of exact batch norm",
            "analytic MB",
            "s/step",
        ),
        [
            (
                row.model,
                row.norm,
                f"{row.keep:g}",
                row.cache,
                "yes" if row.pruned_norms else "",
                f"{row.peak_mb:.0f}",
                f"{row.peak_mb / exact[row.model]:.2f}",
                f"{row.activations_analytic_mb:.0f}",
                f"{row.seconds_step:.2f}",
            )
            for row in rows
        ],
        empty="nothing was measured",
    )


def _save(path: Path | None, rows: list[Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.encode([dataclasses.asdict(row) for row in rows])
        write_atomic(path, msgspec.json.format(content, indent=2) + b"\n")
