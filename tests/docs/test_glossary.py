"""One word for one thing: names of classes, and the words that are not used."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest

from tests.docs.fenced import ROOT

PACKAGES = ("device_profiles", "fedcore", "edge_agent", "coordinator", "export", "tinyfleet")
GLOSSARY = ROOT / "docs" / "glossary.md"


def sources():
    """Every module once: the links below ``tinyfleet`` lead to the other packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def rows():
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| ") and cells[0] != "word":
            yield cells


def unused():
    return [
        word.strip()
        for word in re.search(r"^([a-z, ]+): words of earlier", GLOSSARY.read_text(), re.M)[1].split(",")
    ]


def test_a_class_name_stands_for_one_thing():
    places = defaultdict(set)
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].add(path.relative_to(ROOT).as_posix())
    assert len(places) > 200
    twice = {name: sorted(files) for name, files in places.items() if len(files) > 1}
    assert not twice, f"one name, several things: {twice}"


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[0])
def test_a_word_has_its_place(row):
    word, means, where = row
    assert len(means) > 15
    path = ROOT / where.strip("`")
    assert path.is_file(), f"{word}: {where} is not there"


def test_a_word_stands_once():
    words = [row[0] for row in rows()]
    assert len(words) > 40
    assert len(words) == len(set(words))


@pytest.mark.parametrize("word", unused())
def test_a_word_that_was_dropped_is_not_used(word):
    """As a name of a module, class, function, argument or attribute."""
    for path in sources():
        names = {path.stem}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.arg):
                names.add(node.arg)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
            elif isinstance(node, ast.Name):
                names.add(node.id)
        parts = {part.lower().rstrip("s") for name in names for part in re.findall(r"[A-Z]?[a-z]+", name)}
        assert word not in parts, f"{path.relative_to(ROOT)} says {word}"
