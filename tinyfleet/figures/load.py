"""What many devices, and floods, cost a gateway."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.bench.fleet.flood import FloodKind
from tinyfleet.bench.fleet.floods import FloodRow
from tinyfleet.bench.fleet.load import LoadRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

LOAD, FLOODS = "fleet-load", "fleet-floods"
_CONFIRMED = (FloodKind.CONFIRMED, FloodKind.SIGNED)


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: load and floods."""
    found = LoadFigures(results)
    return {
        LOAD: found.load,
        FLOODS: found.floods,
        "load-bytes": found.result_kb,
        "flood-slower": found.slower,
        "flood-grew": found.grew,
    }


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Rounds of virtual devices, and rounds under floods."""

    results: CommittedResults

    def load(self) -> str:
        """A row a round."""
        columns = (
            *("devices", "hostile", "round", "results a second", "wait, median", "99th percentile"),
            *("coordinator", "at most", "broker", "at most", "load average"),
        )
        return markdown_table(
            columns,
            [
                (
                    *(row.devices, row.hostile or "", row.round, f"{row.results_per_s:.1f}"),
                    *(f"{row.wait_p50_s:.2f} s", f"{row.wait_p99_s:.2f} s"),
                    *(f"{mb:.0f} MB" for mb in (row.coordinator_mb, row.coordinator_peak_mb)),
                    *(f"{mb:.0f} MB" for mb in (row.broker_mb, row.broker_peak_mb)),
                    _load(row.load_average),
                )
                for row in self.results.rows(LOAD, LoadRow)
            ],
        )

    def result_kb(self) -> str:
        """KB of the largest result."""
        return f"{max(row.result_bytes for row in self.results.rows(LOAD, LoadRow)) / 1e3:.0f}"

    def floods(self) -> str:
        """A row a kind of flood."""
        columns = (
            *("flood", "messages", "in", "calm round", "flooded round", "times as long", "longest"),
            *("coordinator grew", "broker grew", "load average"),
        )
        return markdown_table(
            columns,
            [
                (
                    *(row.kind, f"{row.messages:,}", f"{row.seconds:.0f} s"),
                    *(f"{row.calm_round_s:.2f} s", f"{row.flooded_round_s:.2f} s", f"{row.slower:.2f}"),
                    f"{row.longest_round_s:.2f} s",
                    *(f"{max(0.0, mb):.1f} MB" for mb in (row.coordinator_grew_mb, row.broker_grew_mb)),
                    _load(row.load_average),
                )
                for row in self._floods()
            ],
        )

    def slower(self, how: str) -> str:
        """How many times as long the worst flooded round took, of floods ``confirmed``, or ``unconfirmed``."""
        confirmed = how == "confirmed"
        found = [row for row in self._floods() if (row.kind in _CONFIRMED) == confirmed]
        return f"{max(row.slower for row in found):.2f}"

    def grew(self) -> str:
        """MB by which the coordinator grew at most."""
        return f"{max(row.coordinator_grew_mb for row in self._floods()):.1f}"

    def _floods(self) -> list[FloodRow]:
        return self.results.rows(FLOODS, FloodRow)


def _load(average: float | None) -> str:
    """Of the machine; empty where it was not looked at."""
    return "" if average is None else f"{average:.0f}"
