"""Files that a power cut leaves as the old version or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from pathlib import Path

from tinyfleet.fedcore.errors import ConfigError

log = logging.getLogger(__name__)

MOST_BYTES = 16 << 20  # of a key, a certificate, a state or a history: far beyond any of ours
_PIECE_BYTES = 1 << 16


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Temp file in the same directory, fsync, rename, fsync of the directory."""
    temporary = path.parent / f".{path.name}.{os.urandom(8).hex()}.tmp"
    # Not by tempfile: with the archives that it brings it is half a megabyte of an agent that stays below thirty.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a small file. Raises ``OSError`` where it has more than ``most`` bytes, or is none.

    A pipe would keep whoever opens it waiting, and a device or a file full of holes take all memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        pieces, left = [], most + 1
        while left > 0 and (piece := os.read(descriptor, min(left, _PIECE_BYTES))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return b"".join(pieces)


def free_bytes(directory: Path) -> int:
    """What the disk of ``directory`` has left for those who are not root."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


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
        remove(path)


def make_private(path: Path) -> None:
    """The directory, and what is missing above it: their owner's alone, each. Raises ``OSError``."""
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)


def check_private(path: Path) -> None:
    """Raises ``ConfigError`` where others than its owner may read or write a file or directory that is there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return
    if mode & 0o077:
        wanted = "700" if path.is_dir() else "600"
        raise ConfigError(f"{path}: others on this machine may use it (mode {mode:o}); chmod {wanted} {path}")


def remove(path: Path) -> None:
    """Remove what is there, a whole folder too; what cannot be removed stays, and is named in the log."""
    try:
        if path.is_dir() and not path.is_symlink():
            _remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)


def _remove_folder(path: Path) -> None:
    """All below it, too. Not by shutil, which is as large as tempfile."""
    for entry in list(path.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            _remove_folder(entry)
        else:
            entry.unlink()
    path.rmdir()


def make_folder(path: Path) -> None:
    """A folder that can be written, in the place of whatever else has that name. Raises ``OSError``."""
    if os.path.lexists(path) and not path.is_dir():
        log.warning("%s is no folder: it is replaced by one", path)
        remove(path)
    path.mkdir(parents=True, exist_ok=True)
    make_usable(path)


def make_room_for(path: Path) -> None:
    """A file is to be written there: what is no file makes way, and one that may not be written is opened up."""
    if path.is_dir() and not path.is_symlink():
        log.warning("%s is a folder: it is replaced by a file", path)
        remove(path)
    elif path.exists():
        make_usable(path)


def make_usable(path: Path) -> None:
    """Give its owner back what a wrong mode keeps from them."""
    with contextlib.suppress(OSError):  # of somebody else, or on a disk that is read-only: whoever uses it says so
        mode = stat.S_IMODE(path.stat().st_mode)
        needed = stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR
        if mode & needed != needed:
            log.warning("%s has mode %o: it is set to %o", path, mode, mode | needed)
            path.chmod(mode | needed)
