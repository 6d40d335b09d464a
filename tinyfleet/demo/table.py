"""The demo's result as tables that a person understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def print_result(console: Console, result: Mapping[str, Any]) -> None:
    """Print accuracy, traffic, memory and the exported files."""
    for table in (summary_table(result), agents_table(result), exports_table(result)):
        console.print()
        console.print(table)
    for event in result["interruptions"]:
        console.print(event, highlight=False, markup=False)
    for loss in result["losses"]:
        text = f"lost: {loss['device']} in step {loss['step']} of {loss['run']}: {loss['reason']}"
        console.print(text, highlight=False, markup=False)


def summary_table(result: Mapping[str, Any]) -> Table:
    """Dense beside tiny."""
    bytes_, accuracy = result["bytes"], result["accuracy"]
    table = _table("", "dense FedAvg", result["method"], "")
    table.add_row(
        "accuracy, held-out test data",
        _percent(accuracy["dense"]),
        _percent(accuracy["tiny"]),
        _points(accuracy["dense"], accuracy["tiny"]),
    )
    table.add_row("density of the prunable weights", "100 %", f"{result['density']:.2%}", "")
    for name, key in (("up", "up_per_device_round"), ("down", "down_per_device_round")):
        dense, tiny = bytes_[f"dense_{key}"], bytes_[key]
        table.add_row(
            f"bytes {name} per device and round",
            _count(dense),
            _count(tiny),
            f"{dense / tiny:.1f}x less" if tiny and dense else "",
        )
    overhead = result["round_overhead_s"]
    table.add_row(
        "round overhead, median / max", "", f"{_seconds(overhead['median'])} / {_seconds(overhead['max'])}", ""
    )
    table.add_row("rounds", str(result["rounds"]), str(result["rounds"]), f"{result['duration_s']:.0f} s in all")
    return table


def agents_table(result: Mapping[str, Any]) -> Table:
    """Memory of each process."""
    table = _table("process", "idle RSS", "peak RSS", "engine", "samples")
    for agent in result["agents"]:
        table.add_row(
            agent["name"],
            _mb(agent["idle_rss_mb"]),
            _mb(agent["peak_rss_mb"]),
            agent["engine"] or "",
            str(agent["samples"]),
        )
    coordinator = result["coordinator"]
    table.add_row("coordinator", _mb(coordinator["idle_rss_mb"]), _mb(coordinator["peak_rss_mb"]), "", "")
    if coordinator.get("engine_process_peak_rss_mb"):
        table.add_row("  its engine process", "", _mb(coordinator["engine_process_peak_rss_mb"]), "", "")
    return table


def exports_table(result: Mapping[str, Any]) -> Table:
    """Each exported file in each runtime."""
    table = _table("file", "runtime", "size", "max rel. error", "same class", "accuracy", "latency")
    for row in result["exports"]:
        table.add_row(
            row["format"] if row["precision"] in row["format"] else f"{row['format']} {row['precision']}",
            row["runtime"],
            _count(row["file_bytes"]),
            f"{row['max_rel_error']:.1e}",
            f"{row['argmax_agreement']:.1%}",
            _percent(row["accuracy"]),
            f"{row['latency_ms']:.2f} ms",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right")
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _points(dense: float | None, tiny: float | None) -> str:
    return "" if dense is None or tiny is None else f"{(tiny - dense) * 100:+.1f} points"


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} B"


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} MB"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"
