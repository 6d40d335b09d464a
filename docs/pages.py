"""What the site shows and the tree has elsewhere: a reference page a module, and the root's own documents.

Run by mkdocs (``make site``); nothing of it is written into the tree.
"""

from __future__ import annotations

import re
from pathlib import Path

import mkdocs_gen_files

ROOT = Path(__file__).parent.parent
PACKAGES = ("fedcore", "coordinator", "edge_agent", "export", "device_profiles")
COPIED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}


def modules(folder: Path, name: str) -> list[tuple[str, Path]]:
    """(dotted name, file) of every public module below ``folder``, packages before what is in them."""
    found = []
    for file in sorted(folder.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name)):
        parts = file.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            found.append((".".join((name, *parts)), file))
    return found


def reference() -> None:
    """One page a module, and the navigation between them."""
    nav = mkdocs_gen_files.Nav()
    for package in PACKAGES:
        for name, _ in modules(ROOT / package, f"tinyfleet.{package}"):
            _page(nav, name)
    for name, _ in modules(ROOT / "sparse_engine" / "sparse_engine", "sparse_engine"):
        _page(nav, name)
    with mkdocs_gen_files.open("reference/SUMMARY.md", "w") as file:
        file.writelines(nav.build_literate_nav())


def _page(nav: mkdocs_gen_files.Nav, name: str) -> None:
    parts = name.removeprefix("tinyfleet.").split(".")
    path = Path(*parts, "index.md") if _is_package(parts) else Path(*parts).with_suffix(".md")
    nav[tuple(parts)] = path.as_posix()
    with mkdocs_gen_files.open(Path("reference") / path, "w") as file:
        file.write(f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n")


def _is_package(parts: list[str]) -> bool:
    folder = ROOT.joinpath("sparse_engine", *parts) if parts[0] == "sparse_engine" else ROOT.joinpath(*parts)
    return folder.is_dir()


def copies() -> None:
    """Documents that belong at the repository's root, with their links turned round."""
    for source, target in COPIED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\]\(docs/", "](", text)
        with mkdocs_gen_files.open(target, "w") as file:
            file.write(text)


reference()
copies()
