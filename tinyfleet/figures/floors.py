"""Floors and rooms, drawn from the contracts that import-linter holds and from what each folder says of itself."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Any

from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table

ROOT = Path(__file__).resolve().parents[2]
ENGINE = "sparse_engine"  # a distribution of its own
PROGRAMS = "tinyfleet"  # the package on the highest floor: all the others are installed below its name


def figures(results: CommittedResults) -> dict[str, Figure]:
    """``results`` is not read: the contracts stand in the repository that this file is of."""
    return {"floors": lambda: floors(ROOT), "rooms": lambda package: rooms(ROOT, package)}


def floors(root: Path) -> str:
    """The packages from the highest floor down, each with the first sentence of its own docstring."""
    contract = next(c for c in _contracts(root) if c["name"].startswith("floors"))
    shared: list[list[str]] = [[PROGRAMS]]
    for layer in contract["layers"]:
        names = [name.removeprefix(f"{PROGRAMS}.") for name in _names(layer)]
        own = [name for name in names if name == ENGINE or (root / name / "__init__.py").exists()]
        if own:
            shared.append(own)
    rows = [
        (len(shared) - 1 - index, f"`{package}/`", _says(root, package))
        for index, packages in enumerate(shared)
        for package in packages
    ]
    return markdown_table(("floor", "package", "what lives there"), rows, words=True)


def rooms(root: Path, package: str) -> str:
    """The rooms of a package from the highest down; rooms on one line do not know each other."""
    contract = next(c for c in _contracts(root) if c.get("containers") in ([package], [f"{PROGRAMS}.{package}"]))
    rows = []
    for layer in contract["layers"]:
        names = _names(layer)
        rows.append(
            (
                ", ".join(f"`{name}`" for name in names),
                "; ".join(_says(root, f"{package}/{name.replace('.', '/')}") for name in names),
            )
        )
    return markdown_table(("room", "what happens in it"), rows, words=True)


def _contracts(root: Path) -> list[dict[str, Any]]:
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found = document["tool"]["importlinter"]["contracts"]
    return [contract for contract in found if contract["type"] == "layers"]


def _names(layer: str) -> list[str]:
    return [word.strip().strip("()") for word in layer.replace(":", "|").split("|")]


def _says(root: Path, place: str) -> str:
    folder = root / (f"{ENGINE}/{place}" if place.split("/", maxsplit=1)[0] == ENGINE else place)
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")
