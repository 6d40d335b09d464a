"""What differential privacy costs, by mode and epsilon."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from tinyfleet.bench.privacy import PrivacyRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: privacy."""
    return {"privacy": PrivacyFigures(results).privacy}


@dataclass(frozen=True, slots=True)
class PrivacyFigures:
    """Private runs beside plain ones of the same model."""

    results: CommittedResults

    def privacy(self) -> str:
        """A row a cell, in the order that they were run in."""
        rows = self.results.rows("privacy", PrivacyRow)
        plain = {(row.density, row.norm): row for row in rows if row.mode == "none"}
        columns = (
            "privacy", "model", "noise, clips", "epsilon", "seeds", "before", "accuracy", "points lost", "KB up",
            "KB down", "processor seconds a round",
        )  # fmt: skip
        return markdown_table(columns, [_cells(row, plain[row.density, row.norm]) for row in rows])


def _cells(row: PrivacyRow, plain: PrivacyRow) -> tuple[object, ...]:
    seeds = len(row.accuracies)
    lost = statistics.fmean(plain.accuracies[:seeds]) - row.accuracy  # beside the plain runs of the same seeds
    sparse = "dense" if row.density == 1.0 else f"density {row.density:g}"
    return (
        row.mode,
        f"{sparse}, {row.norm}: {row.values:,} values",
        "" if row.mode == "none" else f"{row.noise:g}",
        "" if row.epsilon is None else f"{row.epsilon:.3g}",
        seeds,
        f"{100 * statistics.fmean(row.before):.1f} %",
        f"{100 * row.accuracy:.1f} %",
        "" if row.mode == "none" else f"{100 * lost:.1f}",
        f"{row.bytes_up / 1e3:.1f}",
        f"{row.bytes_down / 1e3:.1f}",
        "" if row.seconds is None else f"{row.seconds:.2f}",
    )
