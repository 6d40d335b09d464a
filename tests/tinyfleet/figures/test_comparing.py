"""A tie is called a tie."""

from __future__ import annotations

import pytest

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.figures.comparing import Score, Standing, compared, score, scores


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        ([40.0, 41.0], [38.0, 39.0], Standing.AHEAD),
        ([38.0, 39.0], [40.0, 41.0], Standing.BEHIND),
        ([40.0, 44.0], [39.0, 41.0], Standing.TIE),
        ([40.0, 41.0], [39.0, 40.0], Standing.TIE),  # they touch
        ([50.0], [10.0, 11.0], Standing.TIE),  # one seed says nothing
        ([50.0, 51.0], [10.0], Standing.TIE),
    ],
)
def test_ranges_of_seeds_decide(own, other, verdict):
    assert compared(own, other).verdict is verdict


def test_a_comparison_in_words():
    assert str(compared([40.0, 41.0], [38.0, 39.0])) == "+2.0"
    assert str(compared([38.0, 39.0], [40.0, 41.0])) == "−2.0"
    assert str(compared([40.0, 44.0], [39.0, 41.0])) == "+2.0 (tie)"


def cell(method="m", **values):
    return Cell(method, "d", "p", "resnet8", 0.1, 0, "", **values)


def test_either_score():
    ran = cell(accuracy_last10=0.5, curve=[(23, 0.4), (24, 0.6)])
    assert (score(ran, Score.LAST), score(ran, Score.FINAL)) == (50.0, 60.0)
    with pytest.raises(ValueError, match="m, seed 0, did not finish"):
        score(cell(), Score.LAST)
    with pytest.raises(LookupError, match=r"no run of other at density 0.1"):
        scores([ran], "other", 0.1)
