"""Distributions made for tests: modules and their metadata in a folder on the path, as an installer leaves them."""

from __future__ import annotations

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
