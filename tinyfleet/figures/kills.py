"""How often fleets of real processes were killed, and what became of their runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

KILLS = "kills"
_RANDOM, _BOUNDARIES = "random", "boundaries"


def figures(results: CommittedResults) -> dict[str, Figure]:
    """By name: kills, and the sums of either way of killing."""
    found = KillFigures(results)
    return {KILLS: found.kills, "kills-sum": found.total, "kills-of": found.of}


@dataclass(frozen=True, slots=True)
class KillFigures:
    """Kills at any instant, and before each write and publish."""

    results: CommittedResults

    def kills(self) -> str:
        """A row for whatever was killed."""
        random, boundaries = self._killed(_RANDOM), self._killed(_BOUNDARIES)
        rows = [
            (name, random.get(name, ""), boundaries.get(name, ""))
            for name in sorted({*random, *boundaries}, key=lambda name: (-random.get(name, 0), name))
        ]
        return markdown_table(("killed", "at any instant", "before a write or a publish"), rows)

    def total(self, way: str) -> str:
        """All kills of one way: random or boundaries."""
        return str(sum(self._killed(way).values()))

    def of(self, way: str, what: str) -> str:
        """A sum that stands in the file: runs, preparing, tried, missed, faulty."""
        return str(self._sums(way)[what])

    def _killed(self, way: str) -> dict[str, int]:
        """The second agent is the first one over again, so one name stands for both."""
        names = {"agent-0": "agent", "agent-0/worker": "worker", "coordinator/engine": "engine"}
        killed: dict[str, int] = self._sums(way)["killed"]
        return {names.get(name, name): count for name, count in killed.items()}

    def _sums(self, way: str) -> dict[str, Any]:
        sums: dict[str, Any] = self.results.read(KILLS)[way]
        return sums
