"""Decoded arrays that are kept for the next start. Only a cache: damaged, full or read-only, it is done without."""

from __future__ import annotations

import hashlib
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.files.boundary import shown
from tinyfleet.fedcore.datasets.files.npy import read_npy
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.files import free_bytes, write_atomic

log = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size
MOST_FILES = 1 << 20  # looked at in one folder
_ROOM = 2  # a disk keeps so many times what is written, or nothing is


class KeptArray:
    """One array of one folder, read in one way: the next state of the folder takes its place."""

    def __init__(self, directory: Path, root: Path, way: str) -> None:
        name = hashlib.sha256(os.fsencode(root.resolve()) + b"\0" + way.encode()).hexdigest()[:32]
        self._path = directory / f"{name}.images"

    def read(self, files: bytes) -> AnyArray | None:
        """What was kept of just these ``files`` (a fingerprint); None where it is not there, or damaged."""
        try:
            data = self._path.read_bytes()
            digest, rest = data[:_DIGEST], memoryview(data)[_DIGEST:]
            if hashlib.sha256(rest).digest() != digest or bytes(rest[:_DIGEST]) != files:
                return None
            content = rest[_DIGEST:]
            return read_npy(io.BytesIO(content), len(content))
        except (OSError, DataError):
            return None

    def write(self, files: bytes, array: AnyArray) -> None:
        """Keep it, where the disk lets."""
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        content = files + buffer.getvalue()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if free_bytes(self._path.parent) < _ROOM * len(content):
                log.info("%s has no room for %d bytes of decoded data", shown(self._path.parent), len(content))
                return
            write_atomic(self._path, hashlib.sha256(content).digest() + content)
        except OSError as error:
            log.info("decoded data is not kept in %s: %s", shown(self._path.parent), error.strerror)


def fingerprint(root: Path, files: Iterable[tuple[Path, int]]) -> bytes:
    """Of names, labels, sizes and times. Raises ``OSError`` for a file that is gone."""
    digest = hashlib.sha256()
    for file, label in files:
        status = file.stat()
        digest.update(os.fsencode(file.relative_to(root)))
        digest.update(f"\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.digest()


def files_state(path: Path) -> str:
    """Of a file, or of all files at and below a folder, without opening them; empty where nothing is there."""
    digest = hashlib.sha256()
    waiting, seen = [path], 0
    while waiting and seen < MOST_FILES:
        place = waiting.pop()
        try:
            status = place.stat()
            if place.is_dir():
                waiting += sorted(Path(entry.path) for entry in os.scandir(place) if not entry.is_symlink())
        except OSError:
            continue
        seen += 1
        digest.update(os.fsencode(place) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest() if seen else ""
