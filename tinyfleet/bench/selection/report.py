"""The comparison as JSON, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import msgspec

matplotlib.use("Agg")

from matplotlib.figure import Figure

from tinyfleet.bench.selection.clock import BOARDS
from tinyfleet.bench.selection.runner import Comparison, Curve, compare
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.run_spec import RunSpec

EMULATED = "emulated boards: numerics are trained, the clock is a model"
COLOURS = {"random": "#d55e00", "capability": "#0072b2"}
TITLES = {"random": "uniform random", "capability": "capability-aware"}


def write_report(base: RunSpec, curves: Sequence[Curve], directory: Path) -> list[Path]:
    """``selection.json``, ``selection.svg`` and ``selection.png``."""
    found = compare(curves)
    document = {
        "note": EMULATED,
        "boards": BOARDS,
        "spec": msgspec.to_builtins(base),
        "target": curves[0].target,
        "comparison": asdict(found),
        "curves": [asdict(curve) for curve in curves],
    }
    path = directory / "selection.json"
    write_atomic(path, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    return [path, *write_plot(curves, found, directory / "selection")]


def write_plot(curves: Sequence[Curve], found: Comparison, stem: Path) -> list[Path]:
    """Accuracy on held-out test data against virtual time, a line a run."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    for curve in curves:
        points = [(point.seconds, 100.0 * point.accuracy) for point in curve.points if point.accuracy is not None]
        label = None if curve.policy in named else TITLES[curve.policy]
        named.add(curve.policy)
        x, y = [seconds for seconds, _ in points], [accuracy for _, accuracy in points]
        axes.plot(x, y, color=COLOURS[curve.policy], label=label, lw=1.3, alpha=0.8)
        if curve.target_s is not None:
            axes.plot(x[-1], y[-1], "o", color=COLOURS[curve.policy], markersize=4)
    axes.axhline(100.0 * curves[0].target, color="black", lw=0.8, ls=":", label="target")
    ratio = "" if found.median_ratio is None else f"; {found.median_ratio:.2f} times as fast (median of seeds)"
    axes.set(xlabel="virtual seconds", ylabel="test accuracy, %", title=f"{EMULATED}{ratio}")
    axes.title.set_fontsize(8)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("svg", "png")]
    with matplotlib.rc_context({"svg.hashsalt": "tinyfleet"}):
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths
