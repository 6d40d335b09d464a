"""What hostile devices cost, by attack, aggregate and method."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tinyfleet.bench.poisoning.runner import PoisoningCell, PoisoningRow
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: poisoning, poisoning-methods, poisoning-worst, poisoning-honest, poisoning-uneven."""
    rows = PoisoningFigures(results)
    return {
        "poisoning": rows.aggregates,
        "poisoning-methods": rows.methods,
        "poisoning-worst": rows.worst,
        "poisoning-honest": rows.honest,
        "poisoning-uneven": rows.uneven,
    }


@dataclass(frozen=True, slots=True)
class PoisoningFigures:
    """Points of accuracy lost to hostile devices, medians over seeds."""

    results: CommittedResults

    def aggregates(self, share: str) -> str:
        """Of FedAvg, by so many hostile devices in a hundred: a row an attack, a column an aggregate."""
        rows = self._rows("fedavg")
        cells = [cell for cell in rows if cell.attack and round(100 * cell.share) == int(share)]
        aggregates = tuple(dict.fromkeys(cell.aggregate for cell in cells))
        lost = [
            (
                attack,
                *(self._lost(rows, PoisoningCell("fedavg", a, attack, float(share) / 100)) for a in aggregates),
            )
            for attack in dict.fromkeys(cell.attack for cell in cells)
        ]
        honest = ("none: accuracy", *self._accuracies(rows, "fedavg", aggregates))
        return markdown_table(("attack", *aggregates), [honest, *lost])

    def methods(self, aggregate: str, share: str) -> str:
        """A row a method, a column an attack."""
        rows = self._rows()
        cells = [c for c in rows if c.aggregate == aggregate and round(100 * c.share) == int(share)]
        attacks = list(dict.fromkeys(cell.attack for cell in cells if cell.method != "fedavg"))
        return markdown_table(
            ("method", "accuracy without", *attacks),
            [
                (
                    method,
                    *self._accuracies(rows, method, (aggregate,)),
                    *(self._lost(rows, PoisoningCell(method, aggregate, a, float(share) / 100)) for a in attacks),
                )
                for method in dict.fromkeys(cell.method for cell in cells)
            ],
        )

    def worst(self, aggregate: str, share: str, method: str = "fedavg") -> str:
        """The most points that any attack costs, in the median over seeds; with method ``any``, of all methods."""
        rows = self._rows("" if method == "any" else method)
        lost = [
            row.lost(rows[PoisoningCell(cell.method, aggregate, "", 0.0)])
            for cell, row in rows.items()
            if cell.aggregate == aggregate and cell.attack and round(100 * cell.share) == int(share)
        ]
        return f"{max(lost):.1f}"

    def honest(self) -> str:
        """How many results of honest devices were refused, in all cells."""
        return str(sum(sum(row.refused_honest) for row in self._rows().values()))

    def uneven(self) -> str:
        """Honest fleets of uneven data: accuracy without limits and with them."""
        rows = {row.cell: row for row in self.results.rows("poisoning-uneven", PoisoningRow)}
        return markdown_table(
            ("method", "Dirichlet alpha", "without limits", "with limits", "refused"),
            [
                (
                    cell.method,
                    f"{cell.alpha:g}",
                    *(f"{100 * r.accuracy:.1f} %" for r in (row, limited)),
                    sum(limited.refused_honest),
                )
                for cell, row in rows.items()
                if not cell.limited and (limited := rows[replace(cell, limited=True)])
            ],
        )

    def _rows(self, method: str = "") -> dict[PoisoningCell, PoisoningRow]:
        rows = self.results.rows("poisoning", PoisoningRow)
        return {row.cell: row for row in rows if not method or row.method == method}

    @staticmethod
    def _accuracies(rows: dict[PoisoningCell, PoisoningRow], method: str, aggregates: tuple[str, ...]) -> list[str]:
        honest = [rows.get(PoisoningCell(method, aggregate, "", 0.0)) for aggregate in aggregates]
        return ["" if row is None else f"{100 * row.accuracy:.1f} %" for row in honest]

    @staticmethod
    def _lost(rows: dict[PoisoningCell, PoisoningRow], cell: PoisoningCell) -> str:
        row, honest = rows.get(cell), rows.get(PoisoningCell(cell.method, cell.aggregate, "", 0.0))
        return "" if row is None or honest is None else f"{row.lost(honest):.1f}"
