"""How a page holds figures."""

from __future__ import annotations

import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.figures.page import prose, written

FIGURES = {
    "lead": lambda density: {"0.1": "1.9", "0.05": "1.5"}[density],
    "rows": lambda name: f"| {name} |\n|---|\n| 1 |\n",
}
PAGE = """\
Ahead by 3.3<!-- lead 0.1 -->, (9<!-- lead 0.05 -->%).

<!-- table rows "two words" -->
stale
<!-- end -->

After it 1.5<!-- lead 0.05 -->.
"""


def test_figures_and_tables_are_written():
    text = written(PAGE, FIGURES)
    assert "by 1.9<!-- lead 0.1 -->, (1.5<!-- lead 0.05 -->%)" in text
    assert '<!-- table rows "two words" -->\n| two words |\n|---|\n| 1 |\n<!-- end -->' in text
    assert "stale" not in text


def test_writing_twice_changes_nothing():
    once = written(PAGE, FIGURES)
    assert written(once, FIGURES) == once


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("1<!-- leads 0.1 -->", "'leads' is unknown; there are lead, rows"),
        ("1<!-- lead 0.2 -->", "'lead 0.2' cannot be computed: KeyError"),
        ("1<!-- lead -->", "'lead' cannot be computed: TypeError"),
        ("<!-- table lines -->\n<!-- end -->", "'lines' is unknown"),
    ],
)
def test_a_comment_that_names_nothing_is_an_error(comment, message):
    with pytest.raises(ConfigError, match=message):
        written(comment, FIGURES)


def test_prose_is_what_nothing_computes():
    text = prose(written(PAGE, FIGURES) + "In `code 7 %` and [a link](https://x.org/2.5), 3 % stay.\n")
    assert "Ahead by , (%)" in text
    assert "3 % stay" in text
    assert not any(gone in text for gone in ("1.9", "| 1 |", "7 %", "2.5"))
