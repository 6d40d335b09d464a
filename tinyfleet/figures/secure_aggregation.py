"""What secure aggregation costs beside plain."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.bench.secure_aggregation import SecureAggregationRow
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.secure_sum.neighbours import degree_for
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: secure-aggregation, secure-bytes, secure-seconds, secure-stream, secure-neighbours."""
    found = SecureAggregationFigures(results)
    return {
        "secure-aggregation": found.table,
        "secure-bytes": found.bytes_ratio,
        "secure-seconds": found.seconds_ratio,
        "secure-stream": found.stream,
        "secure-neighbours": found.neighbours,
    }


@dataclass(frozen=True, slots=True)
class SecureAggregationFigures:
    """Rows of one machine."""

    results: CommittedResults

    def table(self) -> str:
        """A row a fleet and a share of it lost; seconds are medians."""
        columns = (
            "devices",
            "lost",
            "neighbours",
            "up: plain / secure",
            "down: plain / secure",
            "bytes, times plain",
            "a device: plain / secure",
            "coordinator: plain / secure",
            "seconds, times plain",
            "runs",
            "same sum",
        )
        return markdown_table(columns, [self._cells(row) for row in self._rows()])

    def _cells(self, row: SecureAggregationRow) -> tuple[object, ...]:
        device = [f"{statistics.median(s) * 1e3:.0f} ms" for s in (row.plain_device_s, row.secure_device_s)]
        coordinator = [f"{statistics.median(s):.2f} s" for s in (row.plain_coordinator_s, row.secure_coordinator_s)]
        return (
            row.devices,
            row.lost,
            row.neighbours,
            f"{row.plain_up:,} / {row.secure_up:,} B",
            f"{row.plain_down:,} / {row.secure_down:,} B",
            f"{row.bytes_ratio:.2f}",
            " / ".join(device),
            " / ".join(coordinator),
            f"{row.seconds_ratio:.2f}",
            len(row.plain_device_s),
            "bit for bit" if row.equal else "no",
        )

    def bytes_ratio(self, which: str) -> str:
        """Bytes of a surviving device, times plain: the ``least`` or ``most`` of all rows."""
        return f"{_PICK[which](row.bytes_ratio for row in self._rows()):.2f}"

    def seconds_ratio(self, which: str) -> str:
        """Everybody's seconds, times plain: the ``least`` or ``most`` of all rows."""
        return f"{_PICK[which](row.seconds_ratio for row in self._rows()):.2f}"

    def stream(self) -> str:
        """Megabytes of masks a second."""
        return f"{statistics.median(row.stream_mb_s for row in self._rows()):.0f}"

    def neighbours(self, devices: str) -> str:
        """Of a device in a fleet of so many: computed as a run does."""
        return str(degree_for(int(devices), RunSpec().secure_aggregation.threshold))

    def _rows(self) -> list[SecureAggregationRow]:
        return self.results.rows("secure-aggregation", SecureAggregationRow)


_PICK: dict[str, Callable[..., float]] = {"least": min, "most": max}
