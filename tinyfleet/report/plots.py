"""The report's plots as inline SVG that follows the page's colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

# Stands for the page's text colour while matplotlib draws.
INK = "#010203"
# Readable on white and on near-black alike (Okabe and Ito's colour-blind safe palette, mid tones).
DENSE, TINY, THIRD = "#d55e00", "#0e8ac8", "#009e73"

Rows = Sequence[Mapping[str, Any]]
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tinyfleet",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def accuracy(axes: Axes, result: Mapping[str, Any]) -> None:
    """Accuracy on held-out test data after each round."""
    _lines(axes, result, "test_accuracy", 100.0)
    axes.set(title="accuracy on held-out test data", ylabel="%", xlabel="round")


def loss(axes: Axes, result: Mapping[str, Any]) -> None:
    """Mean training loss of the devices."""
    _lines(axes, result, "loss", 1.0)
    axes.set(title="training loss on the devices", xlabel="round")
    axes.set_ylim(bottom=0)


def traffic(axes: Axes, result: Mapping[str, Any]) -> None:
    """Bytes through a device's broker socket in each round."""
    for name, colour in (("dense", DENSE), ("tiny", TINY)):
        rows = training(result["runs"][name])
        for key, style in (("bytes_up", "-"), ("bytes_down", ":")):
            x, y = points(rows, key, 1e-3)
            axes.plot(x, y, style, color=colour, label=f"{_title(result, name)} {key.removeprefix('bytes_')}")
    axes.set(title="bytes per device and round, at the socket", ylabel="kB", xlabel="round", yscale="log")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, ncols=2)


def memory(axes: Axes, result: Mapping[str, Any]) -> None:
    """The largest worker of each round."""
    _lines(axes, result, "peak_rss_mb", 1.0)
    axes.set(title="peak memory of the largest worker", ylabel="MB", xlabel="round")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.4)


def layers(axes: Axes, result: Mapping[str, Any]) -> None:
    """Density of each prunable layer of the final model."""
    entries = result["layers"]
    names = [entry["name"] for entry in entries]
    values = [100.0 * entry["density"] for entry in entries]
    bars = axes.barh(names, values, color=THIRD)
    axes.bar_label(
        bars,
        [f"{v:.1f} %  ({e['active']:,} of {e['total']:,})" for v, e in zip(values, entries, strict=True)],
        padding=3,
    )
    axes.invert_yaxis()
    axes.set(title="density of each prunable layer", xlabel="%", xlim=(0, max([*values, 1e-9]) * 1.7))


def processes(axes: Axes, result: Mapping[str, Any]) -> None:
    """Idle and peak memory of every process."""
    entries = [*result["agents"], {"name": "coordinator", **result["coordinator"]}]
    names = [entry["name"] for entry in entries]
    peak = [entry["peak_rss_mb"] or 0.0 for entry in entries]
    idle = [entry["idle_rss_mb"] or 0.0 for entry in entries]
    axes.barh(names, peak, color=TINY, alpha=0.45, label="peak (agents: the worker)")
    axes.barh(names, idle, color=TINY, label="idle")
    axes.invert_yaxis()
    axes.set(title="memory of each process", xlabel="MB")
    axes.legend(fontsize=8)


PLOTS: tuple[tuple[str, Callable[[Axes, Mapping[str, Any]], None]], ...] = (
    ("accuracy", accuracy),
    ("loss", loss),
    ("traffic", traffic),
    ("memory", memory),
    ("layers", layers),
    ("processes", processes),
)


def training(rows: Rows) -> list[Mapping[str, Any]]:
    """Rows of the training stage."""
    return [row for row in rows if row["stage"] == "train"]


def points(rows: Rows, key: str, factor: float) -> tuple[list[int], list[float]]:
    """Rounds (the first is 1) and values, where there are values."""
    present = [row for row in rows if row[key] is not None]
    return [row["round"] + 1 for row in present], [row[key] * factor for row in present]


def svg(draw: Callable[[Axes, Mapping[str, Any]], None], result: Mapping[str, Any]) -> str:
    """One plot as an ``<svg>`` element whose ink is the page's ``currentColor``."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.0), layout="constrained")
        draw(figure.subplots(), result)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    # Identifiers must not clash between the plots of one page.
    prefix = draw.__name__
    element = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', element)
    element = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", element)
    return re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)


def _lines(axes: Axes, result: Mapping[str, Any], key: str, factor: float) -> None:
    for name, colour in (("dense", DENSE), ("tiny", TINY)):
        x, y = points(training(result["runs"][name]), key, factor)
        axes.plot(x, y, color=colour, marker="o", markersize=3, label=_title(result, name))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8)


def _title(result: Mapping[str, Any], name: str) -> str:
    return "dense FedAvg" if name == "dense" else f"{result['method']} {result['density']:.1%}"
