"""``tinyfleet bench``: numbers about tinyfleet itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.bench import engine as bench_engine
from tinyfleet.cli.bench import fleet as bench_fleet
from tinyfleet.cli.bench import inference as bench_inference
from tinyfleet.cli.bench import kernels as bench_kernels
from tinyfleet.cli.bench import methods as bench_methods
from tinyfleet.cli.bench import poisoning as bench_poisoning
from tinyfleet.cli.bench import privacy as bench_privacy
from tinyfleet.cli.bench import secure_aggregation as bench_secure_aggregation
from tinyfleet.cli.bench import selection as bench_selection
from tinyfleet.cli.output import emit_table, save_rows

app = typer.Typer(help="Measure tinyfleet itself.", no_args_is_help=True)
app.command("engine")(bench_engine.engine)
app.command("fleet")(bench_fleet.fleet)
app.command("inference")(bench_inference.inference)
app.command("kernels")(bench_kernels.kernels)
app.command("methods")(bench_methods.methods)
app.command("poisoning")(bench_poisoning.poisoning)
app.command("privacy")(bench_privacy.privacy)
app.command("secure-aggregation")(bench_secure_aggregation.secure_aggregation)
app.command("selection")(bench_selection.selection)

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
    from tinyfleet.bench.wire import WireRow, bench_wire
    from tinyfleet.fedcore.models.registry import names

    def progress(row: WireRow, done: int, total: int) -> None:
        typer.echo(f"\r{done}/{total} {row.model} d={row.density:g} {row.precision}      ", err=True, nl=False)

    rows = bench_wire(
        model or names(), density or (0.01, 0.05, 0.1, 1.0), precision or ("fp16", "int8"), repeats, progress
    )
    typer.echo("", err=True)
    save_rows(json_file, rows)
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
    from tinyfleet.fedcore.training.registry import REFERENCE, require

    require(REFERENCE.name)

    def progress(row: CacheRow, done: int, total: int) -> None:
        typer.echo(
            f"\r{done}/{total} {row.model} {row.norm} keep {row.keep:g} {row.cache}      ", err=True, nl=False
        )

    rows = bench_caches(model or ["resnet18"], batch, progress)
    typer.echo("", err=True)
    save_rows(json_file, rows)
    exact = {row.model: row.peak_mb for row in reversed(rows) if row.norm == "batch" and row.keep == 1.0}
    emit_table(
        (
            "model",
            "norm",
            "kept",
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


@app.command()
def plan(
    json_file: JsonFile = None,
    cost_model: Annotated[
        Path | None, typer.Option(help="In place of measuring this machine first (half a minute).")
    ] = None,
    engine: Annotated[str, typer.Option(help="native, torch, or auto: the one that trains here.")] = "auto",
) -> None:
    """Predicted against measured memory and time over a grid of configurations, with the plot beside --json."""
    import sys

    from tinyfleet.bench.plan import PlanRow, bench_plan, errors, grid, scatter
    from tinyfleet.device_profiles.measuring.progress import progress_on
    from tinyfleet.fedcore.planning.cost_model_file import measure, read
    from tinyfleet.fedcore.training.registry import preferred, require

    require(engine)
    name = preferred(engine)
    measured = measure(name, "", 0.0, progress_on(sys.stderr)) if cost_model is None else read(cost_model)

    def progress(row: PlanRow, done: int, total: int) -> None:
        typer.echo(f"\r{done}/{total} {row.model} batch {row.batch}            ", err=True, nl=False)

    rows = bench_plan(measured, list(grid(measured.engine)), progress)
    typer.echo("", err=True)
    save_rows(json_file, rows)
    emit_table(
        (
            "model",
            "norm",
            "batch",
            "micro",
            "kept",
            "density",
            "predicted",
            "measured",
            "error",
            "of the step",
            "s",
            "error",
        ),
        [
            (
                row.model,
                row.norm,
                row.batch,
                row.micro_batch or "",
                f"{row.keep:g}",
                f"{row.density:g}",
                f"{row.predicted_mb:.0f} MB",
                f"{row.measured_mb:.0f} MB",
                f"{row.memory_error:+.1%}",
                f"{row.step_error:+.0%}",
                f"{row.measured_s:.3f}",
                f"{row.time_error:+.0%}",
            )
            for row in rows
        ],
        empty="nothing was measured",
    )
    found = errors(rows)
    typer.echo(
        f"{found.rows} configurations: peak within {found.memory_max:.1%} (median {found.memory_median:.1%}), "
        f"what training adds within {found.step_max:.0%} (median {found.step_median:.0%}), "
        f"time within {found.time_max:.0%} (median {found.time_median:.0%})"
    )
    if json_file is not None:
        picture = json_file.with_suffix(".png")
        scatter(rows, picture)
        typer.echo(f"wrote {json_file} and {picture}", err=True)
