"""Files that a power cut leaves as the old version or the new one, never a part."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from tinyfleet.fedcore.errors import ConfigError


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Temp file in the same directory, fsync, rename, fsync of the directory."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in ``directory`` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_temporaries(directory: Path) -> None:
    """Remove what an interrupted ``write_atomic`` left."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def check_private(path: Path) -> None:
    """Raises ``ConfigError`` where others than its owner may read or write a file or directory that is there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise ConfigError(f"{path}: others on this machine may use it (mode {mode:o}); chmod {wanted} {path}")
