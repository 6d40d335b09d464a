"""A claim that names its test names one that is there, and every claim of the pages of claims names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs.fenced import ROOT, documents

_PATH = re.compile(r"(?<![\w/])((?:sparse_engine/)?tests/[\w/]+)(\.py(?:::(\w+))?)?")
PAGES = [ROOT / "docs/security.md", ROOT / "docs/reliability.md"]


def _tests_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _faults(text: str) -> list[str]:
    """The tests that ``text`` names and that are not there; those of the engine are named from its own folder."""
    faults = []
    for path, suffix, test in _PATH.findall(text):
        name = path + ".py" if suffix else path
        places = [place for place in (name, f"sparse_engine/{name}") if (ROOT / place).exists()]
        if not places or (test and test not in _tests_of(places[0])):
            faults.append(f"{path}{suffix}")
    return faults


def _claims(page: Path) -> list[tuple[str, str]]:
    """Rows of the tables of claims: what is said, and where it is held."""
    rows = [line.strip().strip("|").split(" | ") for line in page.read_text(encoding="utf-8").splitlines()]
    return [(row[0].strip(), row[-1].strip()) for row in rows if len(row) == 2 and not row[0].startswith("-")]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_tests_that_a_page_names_are_there(document):
    assert _faults(document.read_text(encoding="utf-8")) == []


def test_a_test_that_is_not_there_is_seen():
    assert _faults("held by `tests/docs/test_claims.py::test_no_such_thing` and tests/nowhere/test_x.py") == [
        "tests/docs/test_claims.py::test_no_such_thing",
        "tests/nowhere/test_x.py",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_claim_names_its_test(page):
    claims = [claim for claim in _claims(page) if claim != ("claim", "held by")]
    assert len(claims) >= 15
    assert [claim for claim, held in claims if not re.search(r"tests/[\w/]+\.py::test_\w+", held)] == []
