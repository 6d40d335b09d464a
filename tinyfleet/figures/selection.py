"""Capability-aware selection against uniform random, on emulated boards."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from tinyfleet.figures.comparing import compared
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

JOBS = {
    "selection": "static mask, density 0.2, 5 local epochs (built in)",
    "selection-fedavg": "dense FedAvg, 2 local epochs",
    "selection-fedtiny": "FedTiny, density 0.1, 5 local epochs",
}


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: selection."""
    found = SelectionFigures(results)
    return {"selection": found.selection, "selection-round": found.round_share}


@dataclass(frozen=True, slots=True)
class SelectionFigures:
    """Virtual seconds until the target is met."""

    results: CommittedResults

    def selection(self) -> str:
        """A row a job; ``tie`` where the ranges of the two policies' times overlap."""
        rows = []
        for name, title in JOBS.items():
            found = self.results.read(name)["comparison"]
            slow, fast, ratios = found["random_s"], found["capability_s"], found["ratios"]
            verdict = compared(slow, fast).verdict
            rows.append(
                (
                    title,
                    len(found["seeds"]),
                    f"{min(slow):.0f} to {max(slow):.0f} s",
                    f"{min(fast):.0f} to {max(fast):.0f} s",
                    ", ".join(f"{ratio:.2f}" for ratio in ratios),
                    f"{found['median_ratio']:.2f}",
                    "ranges overlap" if verdict == "tie" else "every seed",
                    f"{self._rounds(name, 'random')} / {self._rounds(name, 'capability')}",
                )
            )
        columns = (
            "job",
            "seeds",
            "uniform random",
            "capability-aware",
            "times as fast, by seed",
            "median",
            "faster",
            "rounds to the target",
        )
        return markdown_table(columns, rows)

    def _rounds(self, name: str, policy: str) -> str:
        found = [len(self._trained(curve)) for curve in self._curves(name, policy)]
        return f"{min(found)} to {max(found)}"

    def round_share(self, which: str) -> str:
        """A round's time under capability-aware selection as a share of random's: the least or most of the jobs."""
        shares = []
        for name in JOBS:
            seconds = [
                statistics.fmean(
                    point["round_s"] for curve in self._curves(name, policy) for point in self._trained(curve)
                )
                for policy in ("capability", "random")
            ]
            shares.append(seconds[0] / seconds[1])
        return f"{ {'least': min, 'most': max}[which](shares):.2f}"

    def _curves(self, name: str, policy: str) -> list[dict[str, Any]]:
        return [curve for curve in self.results.read(name)["curves"] if curve["policy"] == policy]

    @staticmethod
    def _trained(curve: dict[str, Any]) -> list[dict[str, Any]]:
        return [point for point in curve["points"] if point["accuracy"] is not None]
