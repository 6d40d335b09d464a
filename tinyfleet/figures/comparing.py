"""When one method is ahead of another, and when they tie: by the ranges of their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.bench.methods.cell import Cell


class Standing(StrEnum):
    """What a comparison of two methods' seeds says."""

    AHEAD = "ahead"  # the worst seed is better than the other's best
    TIE = "tie"  # the ranges of the seeds overlap
    BEHIND = "behind"


class Score(StrEnum):
    """Which accuracy of a run is compared."""

    LAST = "last"  # the mean of the last ten evaluations
    FINAL = "final"  # the last evaluation alone


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """``difference`` of the means, in points of accuracy."""

    difference: float
    verdict: Standing

    def __str__(self) -> str:
        sign = f"{self.difference:+.1f}".replace("-", "−")
        return f"{sign} (tie)" if self.verdict is Standing.TIE else sign


def score(cell: Cell, kind: Score) -> float:
    """In %. Raises ``ValueError`` of a run that did not finish."""
    if cell.accuracy_last10 is None:
        raise ValueError(f"{cell.method}, seed {cell.seed}, did not finish")
    return 100.0 * (cell.accuracy_last10 if kind is Score.LAST else cell.curve[-1][1])


def compared(own: Sequence[float], other: Sequence[float]) -> SeedComparison:
    """Seeds' scores against another's; of single seeds nothing but a tie can be said."""
    difference = statistics.fmean(own) - statistics.fmean(other)
    verdict = Standing.TIE
    if len(own) > 1 and len(other) > 1:
        if min(own) > max(other):
            verdict = Standing.AHEAD
        elif max(own) < min(other):
            verdict = Standing.BEHIND
    return SeedComparison(difference, verdict)


def scores(cells: Iterable[Cell], method: str, density: float, kind: Score = Score.LAST) -> list[float]:
    """Of a method's seeds at a density; of dense training those at density 1. Raises ``LookupError`` of none."""
    found = [score(cell, kind) for cell in cells if cell.method == method and cell.density == density]
    if not found:
        raise LookupError(f"there is no run of {method} at density {density:g}")
    return found
