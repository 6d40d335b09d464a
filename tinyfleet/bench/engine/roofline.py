"""The roofline: GFLOP/s of every shape and density over its arithmetic intensity, under the measured bounds."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

from tinyfleet.bench.engine.kernels import KernelReport

# Okabe and Ito's colour-blind safe palette.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = {"forward": "o", "input gradient": "^", "weight gradient": "s"}


def plot_roofline(report: KernelReport, path: Path) -> None:
    """A panel an operation, a point a shape; PNG or SVG by the name."""
    bounds = report.bounds
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    densities = sorted({row.density for row in report.rows if row.kernel == "sparse"})
    colours = {density: COLOURS[index % len(COLOURS)] for index, density in enumerate(densities)}
    intensities = [row.intensity for row in report.rows]
    ends = [min(intensities) / 2, max(intensities) * 2]
    ridge = bounds.registers_gflops / bounds.memory_gbs
    line = sorted({*ends, min(max(ridge, ends[0]), ends[1])})
    for axes, (operation, marker) in zip(figure.subplots(1, 3, sharey=True), MARKERS.items(), strict=True):
        axes.plot(line, [bounds.roof(x) for x in line], color="black", linewidth=1.0)
        for name, gflops in (("L1 operands", bounds.l1_gflops), ("L2 operands", bounds.l2_gflops)):
            axes.axhline(gflops, color="black", linewidth=0.8, linestyle=":")
            axes.annotate(name, (ends[0], gflops), fontsize=7, va="bottom")
        field = f"{operation.replace(' ', '_')}_gflops"
        for density in densities:
            rows = [row for row in report.rows if row.kernel == "sparse" and row.density == density]
            speeds = [getattr(row, field) for row in rows]
            axes.scatter(
                [row.intensity for row in rows],
                speeds,
                s=14,
                marker=marker,
                color=colours[density],
                label=f"density {density:g}",
            )
        dense = [row for row in report.rows if row.kernel == "dense"]
        axes.scatter(
            [row.intensity for row in dense],
            [getattr(row, field) for row in dense],
            s=18,
            marker=marker,
            facecolors="none",
            edgecolors="black",
            linewidths=0.7,
            label="dense kernel",
        )
        axes.set(xscale="log", yscale="log", xlabel="flops a byte of memory", title=operation)
        axes.grid(visible=True, alpha=0.25)
    axes = figure.axes[0]
    axes.set_ylabel(f"GFLOP/s on nonzeros, one thread, {bounds.isa}")
    figure.axes[-1].legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
