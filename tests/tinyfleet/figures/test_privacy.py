"""The table of privacy: what a run lost is beside the plain runs of the same seeds."""

from __future__ import annotations

import dataclasses

from tinyfleet.bench.privacy import PrivacyRow
from tinyfleet.figures.privacy import PrivacyFigures

PLAIN = PrivacyRow("none", 0.0, 0.1, "nsconv", 100, 0.5, None, 1e-5, [0.1, 0.1], [0.8, 0.6], 1e3, 1e3, 1.0)


class Rows:
    def __init__(self, *rows: PrivacyRow) -> None:
        self._rows = rows

    def rows(self, name: str, kind: type) -> list[PrivacyRow]:
        return list(self._rows)


def cells(*rows: PrivacyRow) -> list[list[str]]:
    table = PrivacyFigures(Rows(*rows)).privacy()  # type: ignore[arg-type]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_points_lost_are_of_the_same_seeds():
    one = dataclasses.replace(PLAIN, mode="local", noise=2.0, before=[0.1], accuracies=[0.75])
    two = dataclasses.replace(PLAIN, mode="central", noise=2.0, accuracies=[0.75, 0.5])
    plain, central, local = cells(PLAIN, two, one)
    assert plain[4:8] == ["2", "10.0 %", "70.0 %", ""]
    assert central[4:8] == ["2", "10.0 %", "62.5 %", "7.5"]
    assert local[4:8] == ["1", "10.0 %", "75.0 %", "5.0"]
