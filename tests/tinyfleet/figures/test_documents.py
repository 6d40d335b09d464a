"""The documents' figures are what the committed results give, and every measured figure is one of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("sparse_engine", reason="the rows of its benchmarks are read with its types")

from tinyfleet.figures.__main__ import main
from tinyfleet.figures.page import prose, written
from tinyfleet.figures.registry import figures

ROOT = Path(__file__).parents[3]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
# A number with a unit, as digits or as a word, or with a decimal point: what is measured looks so.
WORDS = "half|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|forty|hundred"
UNITS = "MB|kB|KB|GB|ms|s|h|hours|minutes|percent|points?|times|GFLOP/s|MFLOPs"
MEASURED = re.compile(
    rf"(?<![\w.,])\d[\d,]*(?:\.\d+)?\s*(?:%|(?:{UNITS})(?!\w))"
    rf"|\b(?:{WORDS})\s(?:{UNITS})\b"
    r"|(?<![\w.,/])\d{1,3}\.\d{1,3}(?!\w|\.\d)"
)
# What looks so and is not measured: settings of a run, versions, bounds that a test asserts. By page.
SETTINGS = {
    "benchmarks.md": {
        *("24 GB", "3.11", "2.13"),  # the machine
        *("0.01", "0.02", "0.05", "0.1", "0.2", "0.3", "0.5", "0.001"),  # densities, shares kept, Dirichlet's alpha
        *("10 %", "30 %", "50 %", "40 times", "90 %", "20 %", "0.3 s"),  # settings of the runs
        "0.6 points",  # the standard error of a share of 1,000
        "four percent",  # test_sentences.py
        *("2 %", "1 MB", "2 MB"),  # bounds of the slow tests
    },
    "methods.md": {"0.05", "0.1", "0.01", "30 %", "50 %"},
    "engine.md": {"0.01", "0.1", "0.3", "0.7", "3.3", "2.35", "3.11", "3.12", "22.04"},  # also sections, versions
    "export.md": {"2.14", "3.11", "99.9 %", "99 %", "90 %", "0.01", "0.05"},
    "models.md": {"0.71", "1.71", "0.01", "0.25", "1.1"},  # the square root of a half, the variance-preserving gain
    "data.md": {"4.0", "64 times"},  # the licence of the digits; values that do not mix
    "README.md": {"0.01", "0.05", "3.11", "2.0", "500 MB", "90 %"},  # also Python, the licence, what CI asserts
}


@pytest.fixture(scope="module")
def known():
    return figures(ROOT / "docs/benchmarks")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_says_what_the_results_say(page, known):
    text = page.read_text(encoding="utf-8")
    assert written(text, known) == text, "run `make docs`"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in SETTINGS], ids=lambda page: page.name)
def test_every_measured_figure_is_computed(page):
    found = {match.group() for match in MEASURED.finditer(prose(page.read_text(encoding="utf-8")))}
    assert found <= SETTINGS[page.name], "name the figure in a comment beside it, or delete the sentence"


def test_a_number_without_a_comment_is_noticed():
    text = (
        "It takes 12.3<!-- memory tinyfleet 0.05 --> MB, and 7.7 MB, and three times as long at 0.5, with 14 rows."
    )
    assert [match.group() for match in MEASURED.finditer(prose(text))] == ["7.7 MB", "three times", "0.5"]


@pytest.mark.slow
def test_pages_follow_the_results(tmp_path):
    """A changed result changes the page, and nothing else does."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png", "*.svg"))
    page, rows = tmp_path / "docs/benchmarks.md", tmp_path / "docs/benchmarks/start-control.json"
    before = page.read_text(encoding="utf-8")
    main([str(tmp_path / "docs")])
    assert page.read_text(encoding="utf-8") == before
    rows.write_text(rows.read_text(encoding="utf-8").replace("38.3", "33.3"), encoding="utf-8")
    main([str(tmp_path / "docs")])
    after = page.read_text(encoding="utf-8")
    assert "| random mask, ERK | 30 | 33.3 / 37.2 |" in after
    assert "within\n6.0<!-- start-gap sparse --> points" in after


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)?(#[^)\s]+)?\)", page.read_text(encoding="utf-8")):
            path, anchor = target
            if path.startswith(("http:", "https:")):
                continue
            there = page.parent / path if path else page
            assert there.exists(), f"{page.name}: {path}"
            if anchor and there.suffix == ".md":
                assert anchor[1:] in anchors(there), f"{page.name}: {path}{anchor}"


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
