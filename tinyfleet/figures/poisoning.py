"""What hostile devices cost, by attack and aggregate."""

from __future__ import annotations

from dataclasses import dataclass

from tinyfleet.bench.poisoning import PoisoningRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: poisoning."""
    return {"poisoning": PoisoningFigures(results).poisoning}


@dataclass(frozen=True, slots=True)
class PoisoningFigures:
    """Accuracies with hostile devices beside those without."""

    results: CommittedResults

    def poisoning(self) -> str:
        """A row a cell, in the order that they were run in."""
        rows = self.results.rows("poisoning", PoisoningRow)
        honest = {row.aggregate: row.accuracy for row in rows if not row.attack}
        columns = ("aggregate", "attack", "hostile", "accuracy", "points lost", "results refused")
        return markdown_table(
            columns,
            [
                (
                    row.aggregate,
                    row.attack or "none",
                    f"{row.share:.0%}",
                    f"{100 * row.accuracy:.1f} %",
                    f"{100 * (honest[row.aggregate] - row.accuracy):.1f}" if row.attack else "",
                    sum(row.refused),
                )
                for row in rows
            ],
        )
