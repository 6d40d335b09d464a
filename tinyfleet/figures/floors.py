"""Floors and rooms, drawn from the contracts that import-linter holds and from what each folder says of itself."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import Results, markdown_table

PROGRAMS = "tinyfleet"  # the package on the highest floor: all the others are installed below its name


def figures(results: Results) -> dict[str, Figure]:
    """``results`` only says where the repository is."""
    root = results.directory.parents[1]
    return {"floors": lambda: floors(root), "rooms": lambda package: rooms(root, package)}


def floors(root: Path) -> str:
    """The packages from the highest floor down, each with the first sentence of its own docstring."""
    layers = list(_layers(root, "floors"))
    shared: list[list[str]] = []
    for names in layers:
        packages = [name.removeprefix(f"{PROGRAMS}.") for name in names]
        own = [name for name in packages if (root / name / "__init__.py").exists() or name == "sparse_engine"]
        if own:
            shared.append(own)
        elif not shared:
            shared.append([PROGRAMS])
    rows = [
        (len(shared) - 1 - index, f"`{package}/`", _says(root, package))
        for index, packages in enumerate(shared)
        for package in packages
    ]
    return markdown_table(("floor", "package", "what lives there"), rows, words=True)


def rooms(root: Path, package: str) -> str:
    """The rooms of a package from the highest down; rooms in one row do not know each other."""
    rows = []
    for names in _layers(root, f"rooms of {package}"):
        short = [name.removeprefix(f"{PROGRAMS}.{package}.") for name in names]
        for name in short:
            rows.append((f"`{name}`", _says(root, f"{package}/{name.replace('.', '/')}")))
    return markdown_table(("room", "what happens in it"), rows, words=True)


def _layers(root: Path, name: str) -> Iterator[Sequence[str]]:
    document = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    found = [
        contract
        for contract in document["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract["name"].split(":")[0] == name
    ]
    if not found:
        raise LookupError(f"pyproject.toml has no contract called {name!r}")
    for layer in found[0]["layers"]:
        yield [word.strip().strip("()") for word in layer.replace(":", "|").split("|")]


def _says(root: Path, place: str) -> str:
    folder = root / ("sparse_engine/sparse_engine" if place == "sparse_engine" else place)
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".")
