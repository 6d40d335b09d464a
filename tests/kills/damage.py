"""What may happen to a file or a folder that nobody was careful with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit in the middle turns over."""
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def become_a_folder(path: Path) -> None:
    """With something in it."""
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def become_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"x")


def lock_up(path: Path) -> None:
    """Nobody may read or write it; root may all the same."""
    path.chmod(0)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 8)


OF_FILES: tuple[Callable[[Path], None], ...] = (
    truncate,
    flip,
    empty,
    remove,
    become_a_folder,
    lock_up,
    garbage,
)
OF_FOLDERS: tuple[Callable[[Path], None], ...] = (remove, become_a_file, lock_up)
