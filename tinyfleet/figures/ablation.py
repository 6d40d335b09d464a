"""What each part of FedTiny is worth on the demo's task."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from tinyfleet.figures.comparing import SeedComparison, compared
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

WHOLE, DENSE, STATIC = "FedTiny", "FedAvg, dense", "static random mask (ERK)"
ROUNDS = ("10", "20")


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: the ablation."""
    found = Ablation(results)
    return {"ablation": found.ablation, "ablation-gap": found.gap}


@dataclass(frozen=True, slots=True)
class Ablation:
    """Accuracy of the final round on held-out digits, three seeds."""

    results: CommittedResults

    def ablation(self) -> str:
        """Medians, the seeds, and FedTiny against each other variant."""
        rows = []
        for variant in self._accuracies(ROUNDS[0]):
            row = [variant]
            for rounds in ROUNDS:
                seeds = self._accuracies(rounds)[variant]
                told = " ".join(f"{value:.1f}" for value in seeds)
                row += [f"{statistics.median(seeds):.1f}", told, self._against(rounds, variant)]
            rows.append(row)
        heads = [
            head for rounds in ROUNDS for head in (f"{rounds} rounds, median", "seeds", "FedTiny against it, means")
        ]
        return markdown_table(("variant", *heads), rows)

    def _against(self, rounds: str, variant: str) -> str:
        if variant == WHOLE:
            return ""
        return str(self._compared(rounds, variant))

    def _compared(self, rounds: str, variant: str) -> SeedComparison:
        found = self._accuracies(rounds)
        return compared(found[WHOLE], found[variant])

    def gap(self, rounds: str) -> str:
        """Points by which FedTiny's median lies below dense training's."""
        found = self._accuracies(rounds)
        return f"{statistics.median(found[DENSE]) - statistics.median(found[WHOLE]):.1f}"

    def _accuracies(self, rounds: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for row in self.results.read(f"ablation-mnist5k-{rounds}-rounds"):
            found.setdefault(row["variant"], []).append(100.0 * row["accuracy_final"])
        return found
