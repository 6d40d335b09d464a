"""Accuracy of the methods against each other: tables, leads, and what is a tie."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.bench.methods.tables import accuracy_table, summaries
from tinyfleet.figures.comparing import Score, SeedComparison, Standing, compared, scores
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

BENCH, OWN, DENSE = "cpu-cifar10", "tinyfleet", "fedavg"


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: the methods' accuracy."""
    found = Methods(results)
    return {
        "accuracy": found.accuracy,
        "against": found.against,
        "leads": found.leads,
        "lead": found.lead,
        "counted": found.counted,
        "verdicts": found.verdicts,
        "difference": found.difference,
        "score": found.score,
        "seeds-apart": found.seeds_apart,
        "jolt": found.jolt,
        "engines": found.engines,
    }


@dataclass(frozen=True, slots=True)
class Methods:
    """Figures of the benchmark of all methods."""

    results: CommittedResults

    @property
    def cells(self) -> list[Cell]:
        return self.results.cells(BENCH)

    def accuracy(self, bench: str) -> str:
        """The benchmark's own table."""
        return "\n".join(accuracy_table(summaries(self.results.cells(bench))))

    def against(self, reference: str) -> str:
        """Every method's difference to one of them at each density, in points; ties are called so."""
        cells = self.cells
        densities = self._densities(cells)
        names = [name for name in dict.fromkeys(cell.method for cell in cells) if name not in (reference, DENSE)]
        rows = [
            (name, *(self._difference(cells, name, reference, density) for density in densities)) for name in names
        ]
        return markdown_table((f"against {reference}", *(f"{100 * density:g} %" for density in densities)), rows)

    @staticmethod
    def _difference(cells: list[Cell], method: str, reference: str, density: float) -> str:
        try:
            return str(compared(scores(cells, method, density), scores(cells, reference, density)))
        except LookupError:
            return ""

    def leads(self) -> str:
        """Of tinyfleet over the best rival, by either score."""
        rows = []
        for density in self._densities(self.cells):
            row = [f"{100 * density:g} %"]
            for kind in Score:
                rival, found = self._lead(density, kind)
                row += [rival, str(found)]
            rows.append(row)
        return markdown_table(
            ("density", "best rival, mean of the last ten", "lead", "best rival, final round", "lead"), rows
        )

    def lead(self, kind: str, density: str) -> str:
        """The same as one figure."""
        return f"{self._lead(float(density), Score(kind))[1].difference:.1f}"

    def _lead(self, density: float, kind: Score) -> tuple[str, SeedComparison]:
        """The rival with the best mean, and the difference to it."""
        cells = self.cells
        rivals = {cell.method for cell in cells if cell.density == density} - {OWN}
        best = max(sorted(rivals), key=lambda name: statistics.fmean(scores(cells, name, density, kind)))
        return best, compared(scores(cells, OWN, density, kind), scores(cells, best, density, kind))

    def counted(self, verdict: str, method: str, reference: str) -> str:
        """At how many densities a method is ahead of another, behind it, or ties with it."""
        return str(sum(found is Standing(verdict) for found in self._verdicts(method, reference)))

    def verdicts(self, verdict: str, method: str) -> str:
        """The same over all other sparse methods and densities."""
        names = {cell.method for cell in self.cells} - {method, DENSE, OWN}
        return str(sum(found is Standing(verdict) for name in names for found in self._verdicts(method, name)))

    def _verdicts(self, method: str, reference: str) -> Iterator[Standing]:
        cells = self.cells
        for density in self._densities(cells):
            try:
                yield compared(scores(cells, method, density), scores(cells, reference, density)).verdict
            except LookupError:
                continue

    def difference(self, method: str, reference: str, density: str) -> str:
        """Of the mean of the last ten evaluations, in points, without a sign."""
        cells, at = self.cells, float(density)
        return f"{abs(compared(scores(cells, method, at), scores(cells, reference, at)).difference):.1f}"

    def score(self, kind: str, method: str, density: str) -> str:
        """A method's accuracy in %."""
        return f"{statistics.fmean(scores(self.cells, method, float(density), Score(kind))):.1f}"

    def seeds_apart(self, method: str, density: str) -> str:
        """By how many points a method's seeds differ."""
        found = scores(self.cells, method, float(density))
        return f"{max(found) - min(found):.1f}"

    def jolt(self, which: str, method: str, finished: str) -> str:
        """The least or most points of accuracy that runs lose in one round, counted from 1."""
        after = int(finished)
        falls = []
        for cell in self.cells:
            curve = dict(cell.curve)
            if cell.method == method:
                falls.append(100.0 * (curve[after - 1] - curve[after]))
        return f"{ {'least': min, 'most': max}[which](falls):.0f}".strip()

    def engines(self) -> str:
        """Which engine trained what."""
        found: dict[float, set[str]] = {}
        for cell in self.cells:
            found.setdefault(cell.density, set()).add(cell.engine)
        odd = [cell for cell in self.cells if len(found[cell.density]) > 1 and cell.engine == "torch"]
        rows = [
            (f"{100 * density:g} %", ", ".join(sorted(found[density]))) for density in sorted(found, reverse=True)
        ]
        table = markdown_table(("density", "trained by"), rows, words=True)
        notes = [f"{cell.method}, seed {cell.seed}, at {100 * cell.density:g} % by torch" for cell in odd]
        return table + (
            f"\n\nWhere both stand: {'; '.join(notes)}; all else by the native engine." if notes else ""
        )

    @staticmethod
    def _densities(cells: list[Cell]) -> list[float]:
        return sorted({cell.density for cell in cells if cell.method != DENSE}, reverse=True)
