"""Tables of a method benchmark: rows over seeds to mean and spread, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import msgspec

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.fedcore.files import write_atomic

METRICS = (
    "accuracy_last10",
    "accuracy_best",
    "density_final",
    "flops_round_max",
    "bytes_up_round",
    "bytes_down_round",
    "bytes_total",
    "memory_analytic_mb",
    "memory_measured_mb",
    "multiply_adds",
    "onnx_bytes",
    "onnx_latency_ms",
    "seconds",
)


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over the seeds that have it; ``deviation`` is the sample standard deviation."""

    count: int
    mean: float
    deviation: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One method at one density on one data set and partition, over its seeds."""

    dataset: str
    partition: str
    method: str
    density: float
    seeds: int  # that finished
    failed: int
    metrics: dict[str, Spread]

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds, None where no seed has the number."""
        return self.metrics[metric].mean if metric in self.metrics else None


def summaries(rows: Iterable[Cell]) -> list[Summary]:
    """In the order in which methods first come, densities falling."""
    groups: dict[tuple[str, str, str, float], list[Cell]] = {}
    order: dict[str, int] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.partition, row.method, row.density), []).append(row)
        order.setdefault(row.method, len(order))
    places = {key[:2]: index for index, key in reversed(list(enumerate(groups)))}
    keys = sorted(groups, key=lambda key: (places[key[:2]], order[key[2]], -key[3]))
    return [_summary(*key, groups[key]) for key in keys]


def _summary(dataset: str, partition: str, method: str, density: float, rows: Sequence[Cell]) -> Summary:
    done = [row for row in rows if row.status == "done"]
    columns = {metric: [value for row in done if (value := _metric(row, metric)) is not None] for metric in METRICS}
    metrics = {metric: spread(values) for metric, values in columns.items() if values}
    return Summary(dataset, partition, method, density, len(done), len(rows) - len(done), metrics)


def _metric(row: Cell, metric: str) -> float | None:
    if metric != "memory_measured_mb":
        value: float | None = getattr(row, metric)
        return value
    if row.peak_rss_mb is None or row.baseline_rss_mb is None:
        return None
    return row.peak_rss_mb - row.baseline_rss_mb


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(len(values), statistics.fmean(values), deviation, min(values), max(values))


def percent(value: Spread) -> str:
    """Mean with the standard deviation; with two values, which have none to speak of, both."""
    mean = f"{100 * value.mean:.1f}"
    if value.count == 1:
        return mean
    if value.count == 2:
        return f"{mean} ({100 * value.least:.1f} to {100 * value.most:.1f})"
    return f"{mean} ± {100 * value.deviation:.1f}"


def markdown(rows: Sequence[Cell], name: str) -> str:
    """The whole report: for each data set and partition accuracy by density, then costs; failures last."""
    lines = [f"# Benchmark {name}", ""]
    entries = summaries(rows)
    for dataset, partition in dict.fromkeys((entry.dataset, entry.partition) for entry in entries):
        here = [entry for entry in entries if (entry.dataset, entry.partition) == (dataset, partition)]
        lines += [f"## {dataset}, {partition}", "", *accuracy_table(here), "", *cost_table(here), ""]
    failed = [row for row in rows if row.status == "failed"]
    if failed:
        lines += ["## Failed runs", ""]
        lines += [f"- {row.method}, density {row.density:g}, seed {row.seed}: {row.reason}" for row in failed]
        lines.append("")
    return "\n".join(lines)


def accuracy_table(entries: Sequence[Summary]) -> Iterator[str]:
    """The lines of a table of methods by densities, its sentence first."""
    densities = sorted({entry.density for entry in entries}, reverse=True)
    values = {(entry.method, entry.density): entry for entry in entries}
    yield "Accuracy on held-out test data in %, the mean of the last evaluations, by density."
    yield ""
    yield from _table(
        ("method", *(f"{100 * density:g} %" for density in densities)),
        [
            (method, *(_accuracy_of(values.get((method, density))) for density in densities))
            for method in dict.fromkeys(entry.method for entry in entries)
        ],
    )


def _accuracy_of(entry: Summary | None) -> str:
    if entry is None:
        return ""
    value = entry.metrics.get("accuracy_last10")
    lost = f", {entry.failed} failed" if entry.failed else ""
    return (percent(value) if value else "failed") + (lost if value else "")


def cost_table(entries: Sequence[Summary]) -> Iterator[str]:
    """The lines of a table of what a device pays, each number the mean over seeds; its sentence first."""
    dense = next((entry.mean("flops_round_max") for entry in entries if entry.density == 1.0), None)

    def number(entry: Summary, metric: str, show: Callable[[float], str]) -> str:
        value = entry.mean(metric)
        return "" if value is None else show(value)

    yield (
        "Costs of one device: FLOPs of its most expensive round (× dense FedAvg's), bytes a training round, memory"
        " of a training step by arithmetic and as measured above the process's baseline; seconds of the whole run."
    )
    yield ""
    yield from _table(
        (
            "method",
            "density",
            "final",
            "GFLOPs",
            "× dense",
            "kB up",
            "kB down",
            "MB",
            "MB measured",
            "s",
            "M MACs deployed",
            "ONNX kB",
            "ONNX ms",
        ),
        [
            (
                entry.method,
                f"{100 * entry.density:g} %",
                number(entry, "density_final", lambda v: f"{100 * v:.2f} %"),
                number(entry, "flops_round_max", lambda v: f"{v / 1e9:.3g}"),
                number(entry, "flops_round_max", lambda v: f"{v / dense:.3f}" if dense else ""),
                number(entry, "bytes_up_round", lambda v: f"{v / 1e3:.1f}"),
                number(entry, "bytes_down_round", lambda v: f"{v / 1e3:.1f}"),
                number(entry, "memory_analytic_mb", lambda v: f"{v:.2f}"),
                number(entry, "memory_measured_mb", lambda v: f"{v:.1f}"),
                number(entry, "seconds", lambda v: f"{v:.0f}"),
                number(entry, "multiply_adds", lambda v: f"{v / 1e6:.2f}"),
                number(entry, "onnx_bytes", lambda v: f"{v / 1e3:.0f}"),
                number(entry, "onnx_latency_ms", lambda v: f"{v:.2f}"),
            )
            for entry in entries
        ],
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def csv_text(rows: Iterable[Cell]) -> str:
    """A line a run; the curves are in the JSON file."""
    names = [item.name for item in fields(Cell) if item.name != "curve"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def write_tables(rows: Sequence[Cell], name: str, directory: Path) -> list[Path]:
    """results.json (runs with curves, and summaries), results.csv and results.md."""
    document = {
        "name": name,
        "runs": [asdict(row) for row in rows],
        "summaries": [asdict(entry) for entry in summaries(rows)],
    }
    contents = {
        "results.json": msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n",
        "results.csv": csv_text(rows).encode(),
        "results.md": markdown(rows, name).encode(),
    }
    for file, content in contents.items():
        write_atomic(directory / file, content)
    return [directory / file for file in contents]
