"""``tinyfleet bench engine``: training steps of the native engine against dense torch's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.cli.output import emit_table, save_rows

if TYPE_CHECKING:
    from tinyfleet.bench.engine.runner import EngineRow


def engine(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to this file.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be repeated.")] = None,
    density: Annotated[list[float] | None, typer.Option(help="0.01, 0.05 and 0.1; may be repeated.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="1 and 2; may be repeated.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Times are medians of so many steps.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="3 steps, and of torch one variant.")] = False,
) -> None:
    """Seconds and memory of a training step, sparse and native against dense torch at its fastest.

    Each engine has a fresh process; they take their steps in turn.
    """
    from tinyfleet.bench.engine.arms import VARIANTS
    from tinyfleet.bench.engine.cells import chosen
    from tinyfleet.bench.engine.runner import bench_engine
    from tinyfleet.fedcore.training.native.facts import NATIVE
    from tinyfleet.fedcore.training.registry import REFERENCE, require

    def told(text: str) -> None:
        typer.echo(f"\r{text:<100}", err=True, nl=False)

    require(NATIVE.name)
    require(REFERENCE.name)
    cells = chosen(model or (), density or (), threads or ())
    rows = bench_engine(cells, 3 if quick else steps, told, VARIANTS[:1] if quick else VARIANTS)
    typer.echo("", err=True)
    save_rows(json_file, rows)
    emit_table(
        (
            "model",
            "density",
            "batch",
            "micro",
            "kept",
            "recompute",
            "threads",
            "s/step",
            "torch s/step",
            "times as fast",
            "target",
            "peak MB",
            "target",
            "torch peak MB",
            "first step, s",
            "torch's first, s",
            "dense torch at its fastest",
        ),
        [
            (
                row.model,
                f"{row.density:g}",
                row.batch,
                row.micro_batch or "",
                f"{row.keep:g} {row.cache}" if row.keep < 1 else "",
                row.recompute or "",
                row.threads,
                f"{row.ours_s:.4f}",
                f"{row.torch_dense_s:.4f}",
                f"{row.speedup:.1f}",
                _speedup_target(row),
                f"{row.ours_peak_rss_mb:.0f}",
                _peak_target(row),
                f"{row.torch_peak_rss_mb:.0f}",
                f"{row.ours_first_step_s:.2f}",
                f"{row.torch_first_step_s:.2f}",
                row.torch_variant,
            )
            for row in rows
        ],
        empty="nothing was measured: no cell has this model, density and number of threads",
    )


def _speedup_target(row: EngineRow) -> str:
    if row.speedup_target is None:
        return ""
    return f">= {row.speedup_target:g} {_met(row.speedup >= row.speedup_target)}"


def _peak_target(row: EngineRow) -> str:
    if row.peak_target_mb is None:
        return ""
    return f"<= {row.peak_target_mb:g} {_met(row.ours_peak_rss_mb <= row.peak_target_mb)}"


def _met(met: bool) -> str:
    return "met" if met else "not met"
