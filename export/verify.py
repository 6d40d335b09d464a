"""Exported files in their runtimes, beside the trained model: how far apart, and whether that will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.format import ExportFormat
from tinyfleet.export.formats.table import format_called
from tinyfleet.export.inference_graph import Inference
from tinyfleet.export.runtimes import Runtime
from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.models.graph import Graph


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One file in one runtime, on held-out data. ``max_rel_error`` is max |a - b| / max |b| over the logits."""

    format: str
    precision: str
    path: str
    file_bytes: int
    max_rel_error: float
    argmax_agreement: float
    accuracy: float
    latency_ms: float  # batch 1, one thread
    runtime: str
    density: float | None = None  # nonzero share of the maskable weights, read from the file (not from TFLite)
    multiply_adds: int | None = None  # of one sample, as the file's runtime counts them: zeros too, but not sparse


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Held-out samples (N, C, ...) with their classes, and the trained model's logits for them."""

    x: FloatArray
    y: IntArray
    expected: FloatArray


def verify(path: Path, each: ExportFormat, graph: Graph, model: Inference, data: HeldOut) -> Iterator[ExportRow]:
    """A row for every runtime that is here."""
    share = each.density(path.read_bytes(), graph) if each.density else None
    operations = each.multiply_adds(model)
    for runtime in each.open(path):
        yield _row(path, each, runtime, data, share, operations)


def check(rows: Sequence[ExportRow]) -> None:
    """Raise ``ExportError`` naming the first file that does not compute what the model does."""
    for row in rows:
        limits = format_called(f"{row.format}-{row.precision}").limits
        # Asked this way round, logits that are not numbers fail too: NaN compares as false.
        near = np.isfinite(row.max_rel_error) and row.max_rel_error <= limits.most_error
        if not (near and row.argmax_agreement >= limits.least_agreement):
            raise ExportError(
                f"{row.path} in {row.runtime}: error {row.max_rel_error:.2g}, agreement "
                f"{row.argmax_agreement:.1%} with the trained model; do not deploy it"
            )


def _row(
    path: Path, each: ExportFormat, runtime: Runtime, data: HeldOut, share: float | None, operations: int
) -> ExportRow:
    logits = runtime.run(data.x)
    decided = logits.argmax(1)
    return ExportRow(
        format=each.kind,
        precision=each.precision,
        path=str(path),
        file_bytes=path.stat().st_size,
        max_rel_error=float(np.abs(logits - data.expected).max() / max(float(np.abs(data.expected).max()), 1e-12)),
        argmax_agreement=float((decided == data.expected.argmax(1)).mean()),
        accuracy=float((decided == data.y).mean()),
        latency_ms=runtime.latency_ms(data.x[:1]),
        runtime=runtime.name,
        density=share,
        multiply_adds=operations,
    )
