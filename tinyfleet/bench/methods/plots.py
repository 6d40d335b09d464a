"""Pictures of a method benchmark: accuracy against density and costs, and convergence; SVG and PNG."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.bench.methods.tables import Summary, summaries

# Okabe and Ito's colour-blind safe palette without its yellow, then darker tones for more methods.
COLOURS = (
    "#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00",
    "#56b4e9", "#7f3c8d", "#8c510a", "#4d4d4d", "#01665e", "#b2182b",
)  # fmt: skip
MARKERS = "osD^vP*Xph<>"
DENSE = 1.0
STYLE: dict[str, Any] = {
    "svg.hashsalt": "tinyfleet",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
AXES = {
    "density": ("density_final", 100.0, "density, %"),
    "bytes": ("bytes_up_round", 1e-3, "kB up, a device and round"),
    "flops": ("flops_round_max", 1e-9, "GFLOPs of a device's most expensive round"),
    "memory": ("memory_measured_mb", 1.0, "MB of a training step, measured above the process's baseline"),
    "multiply-adds": ("multiply_adds", 1e-6, "million multiply-adds of the deployed model, dead channels gone"),
    "latency": ("onnx_latency_ms", 1.0, "ms a sample of the deployed model, onnxruntime on one thread"),
}


def write_plots(rows: Sequence[Cell], directory: Path) -> list[Path]:
    """All pictures of the finished runs, a set for each data set and partition."""
    done = [row for row in rows if row.status == "done"]
    colours = method_styles(rows)
    written: list[Path] = []
    for dataset, partition in dict.fromkeys((row.dataset, row.partition) for row in done):
        here = [row for row in done if (row.dataset, row.partition) == (dataset, partition)]
        place, entries = f"{dataset}, {partition}", summaries(here)
        slug = re.sub(r"[^a-z0-9.]+", "-", place.lower()).strip("-")
        for name, (metric, factor, label) in AXES.items():
            if not any(metric in entry.metrics for entry in entries):
                continue
            figure = Figure(figsize=(6.4, 4.0), layout="constrained")
            with matplotlib.rc_context(STYLE):
                against(figure.subplots(), entries, colours, metric, factor, label)
                figure.suptitle(place, fontsize=10)
                written += _save(figure, directory / f"accuracy-{name}-{slug}")
        for density in sorted({row.density for row in here if row.density < DENSE}, reverse=True) or [DENSE]:
            figure = Figure(figsize=(6.4, 4.0), layout="constrained")
            with matplotlib.rc_context(STYLE):
                convergence(figure.subplots(), here, colours, density)
                figure.suptitle(f"{place}, density {100 * density:g} %", fontsize=10)
                written += _save(figure, directory / f"convergence-{density:g}-{slug}")
    return written


def method_styles(rows: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every method, the same in all pictures."""
    names = dict.fromkeys(row.method for row in rows)
    return {
        name: (COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(names)
    }


def against(
    axes: Axes,
    entries: Sequence[Summary],
    styles: Mapping[str, tuple[str, str]],
    metric: str,
    factor: float,
    label: str,
) -> None:
    """Accuracy over one cost, a line a method through its densities; bars reach from least to most seed."""
    for name, (colour, marker) in styles.items():
        points = [
            (entry.metrics[metric].mean * factor, entry.metrics["accuracy_last10"])
            for entry in entries
            if entry.method == name and metric in entry.metrics and "accuracy_last10" in entry.metrics
        ]
        if not points:
            continue
        points.sort(key=lambda point: point[0])
        mean = [100 * accuracy.mean for _, accuracy in points]
        low = [100 * (accuracy.mean - accuracy.least) for _, accuracy in points]
        high = [100 * (accuracy.most - accuracy.mean) for _, accuracy in points]
        axes.errorbar(
            [x for x, _ in points], mean, [low, high], color=colour, marker=marker, capsize=2, label=name, lw=1.4
        )
    axes.set(xlabel=label, ylabel="accuracy, %")
    if metric == "memory_measured_mb":
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
        for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    _name_lines(axes)


def convergence(axes: Axes, rows: Sequence[Cell], styles: Mapping[str, tuple[str, str]], density: float) -> None:
    """Accuracy over rounds at one density, the mean over seeds; dense runs dashed."""
    for name, (colour, _) in styles.items():
        for at, line in ((density, "-"), (DENSE, "--")):
            own = [dict(row.curve) for row in rows if row.method == name and row.density == at]
            shared = sorted(set.intersection(*map(set, own))) if own else []
            if shared:
                mean = [100 * statistics.fmean(curve[x] for curve in own) for x in shared]
                axes.plot(shared, mean, line, color=colour, label=name if at < DENSE else f"{name}, dense", lw=1.4)
            if density == DENSE:
                break
    axes.set(xlabel="round", ylabel="accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_lines(axes)


def _name_lines(axes: Axes) -> None:
    """The legend beside the axes, in the order of the lines."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths
