"""``tinyfleet bench kernels``: the native engine's inner loops against what the processor can do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from tinyfleet.cli.output import emit_facts, emit_table, save_json


def kernels(
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write bounds, rows and crossovers to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the roofline; .svg as well as .png.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="resnet18 and mobilenet_v2; may be repeated.")] = None,
    density: Annotated[
        list[float] | None, typer.Option(min=0.0, max=1.0, help="0.01, 0.05, 0.1, 0.3 and 1; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples.")] = 64,
    seconds: Annotated[float, typer.Option(min=0.0, help="For each kernel, shape and density.")] = 0.2,
    quick: Annotated[bool, typer.Option("--quick", help="16 samples, each timed twice or so.")] = False,
) -> None:
    """GFLOP/s on nonzero weights of forward pass and gradients, by shape of layer and density, on one thread.

    And from which density on the dense kernel is the faster one.
    """
    from tinyfleet.bench.engine.kernels import DENSITIES, MODELS, bench_kernels

    def told(text: str) -> None:
        typer.echo(f"\r{text:<100}", err=True, nl=False)

    report = bench_kernels(
        model or MODELS,
        density or DENSITIES,
        16 if quick else batch,
        0.01 if quick else seconds,
        told,
    )
    typer.echo("", err=True)
    save_json(json_file, dataclasses.asdict(report))
    if plot is not None:
        from tinyfleet.bench.engine.roofline import plot_roofline

        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_roofline(report, plot)
    bounds = report.bounds
    emit_facts(
        [
            ("instruction set", f"{bounds.isa}, {bounds.width} floats in a vector"),
            ("in registers", f"{bounds.registers_gflops:.0f} GFLOP/s"),
            ("operands from L1", f"{bounds.l1_gflops:.0f} GFLOP/s, {bounds.l1_bytes >> 10} KiB"),
            ("operands from L2", f"{bounds.l2_gflops:.0f} GFLOP/s, {bounds.l2_bytes >> 10} KiB"),
            ("from memory", f"{bounds.memory_gbs:.1f} GB/s"),
        ]
    )
    emit_table(
        (
            "model",
            "shape",
            "kernel",
            "density",
            "forward",
            "d input",
            "d weight",
            "of L2 bound",
            "flop/byte",
            "limit",
        ),
        [
            (
                row.model,
                row.shape,
                row.kernel,
                f"{row.density:g}",
                f"{row.forward_gflops:.1f}",
                f"{row.input_gradient_gflops:.1f}",
                f"{row.weight_gradient_gflops:.1f}",
                f"{row.gflops / bounds.l2_gflops:.0%}",
                f"{row.intensity:.1f}",
                row.limit,
            )
            for row in report.rows
        ],
        empty="nothing was measured",
    )
    emit_table(
        ("model", "shape", f"the dense kernel wins from density (default {report.default:g})"),
        [
            (found.model, found.shape, "never" if found.density > 1 else f"{found.density:.2f}")
            for found in report.crossovers
        ],
        empty="no shape has a dense kernel",
    )
