"""docs/extending.md: its code is the example's, its files are there, its new kind of layers works as it says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys

import pytest

from tests.docs.copied_tree import copy_tree
from tests.docs.fenced import ROOT

PAGE = ROOT / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
MARKED = re.compile(r"^<!-- (?P<mark>(?:code|file|after|check).*?) -->\n```\w+\n(?P<text>.*?)^```$", re.M | re.S)
BLOCKS = [(found["mark"], found["text"]) for found in MARKED.finditer(TEXT)]
CODE = [(mark.removeprefix("code "), text) for mark, text in BLOCKS if mark.startswith("code ")]
EXAMPLE = ROOT / "examples" / "plugin"


def definitions(source: str, names: list[str]) -> str:
    """The named functions, classes and constants of a module, as they stand there."""
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        targets = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        for name in [*targets, getattr(node, "name", "")]:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            found[name] = "\n".join(lines[first - 1 : node.end_lineno])
    return "\n\n\n".join(found[name] for name in names) + "\n"


@pytest.mark.parametrize(("what", "shown"), CODE, ids=[what for what, _ in CODE])
def test_code_on_the_page_is_that_of_the_example(what, shown):
    path, _, names = what.partition(": ")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert shown == (definitions(source, names.split(", ")) if names else source)


def test_every_file_of_the_example_and_every_fenced_block_is_accounted_for():
    assert len(BLOCKS) == TEXT.count("```") // 2
    shown = {what.partition(": ")[0] for what, _ in CODE}
    names = [path for path in EXAMPLE.rglob("*") if path.suffix in (".py", ".toml") and "__init__" not in path.name]
    files = {path.relative_to(ROOT).as_posix() for path in names}
    assert files - shown == {"examples/plugin/run.toml"}


def test_groups_and_places_are_those_that_there_are():
    from tinyfleet.doctor.plugins import DOORS

    rows = [line.split("|") for line in TEXT.splitlines() if line.startswith("| [")]
    assert {row[2].strip(" `") for row in rows} - {"none"} == set(DOORS)
    for row in rows:
        for place in re.findall(r"`([a-z_]+/[\w/.]*)", row[5]):
            path = ROOT / place
            assert (path.parent if "NAME" in place else path).exists(), place


@pytest.mark.slow
def test_a_kind_of_layers_is_added_as_the_page_says(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sparse_engine")
    pytest.importorskip("onnxruntime")
    tree = copy_tree(tmp_path / "tree")
    for mark, text in BLOCKS:
        if mark.startswith("file "):
            path = tree / mark.removeprefix("file ")
            assert not path.exists()
            path.write_text(text, encoding="utf-8")
        elif mark.startswith("after "):
            line, _, name = mark.removeprefix("after `").rpartition("` in ")
            path = tree / name
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            assert lines.count(f"{line}\n") == 1, f"{name} has no single line {line!r}"
            lines.insert(lines.index(f"{line}\n") + 1, text)
            path.write_text("".join(lines), encoding="utf-8")
    (check,) = [text for mark, text in BLOCKS if mark == "check"]
    ran = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "layer 'act' is of kind 'elu', which engine 'native' does not know" in ran.stdout
