"""Distributions made for tests: modules and their metadata in a folder on the path, as an installer leaves them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def distribution(folder: Path, name: str, points: str, *, version: str = "1.0", **modules: str) -> Path:
    """Install ``name`` into ``folder``; ``points`` is its entry_points.txt, ``modules`` are sources by name."""
    folder.mkdir(exist_ok=True)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    for module, source in modules.items():
        path = folder / f"{module}.py"
        path.write_text(source, encoding="utf-8")
    return folder


def wheel(folder: Path, name: str, points: str, *, version: str = "1.0", **modules: str) -> Path:
    """A wheel of packages (name -> source of its ``__init__``) as pip installs it."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files = {f"{module}/__init__.py": source for module, source in modules.items()}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = points
    record = f"{info}/RECORD"
    files[record] = "".join(f"{path},,\n" for path in [*files, record])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in files.items():
            archive.writestr(inner, text)
    return path
