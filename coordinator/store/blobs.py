"""Content-addressed files: ``blobs/ab/<sha256>``. What is there under its final name is whole and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.fedcore.files import sync_directory


class BlobStore:
    """Blobs below one directory. Only one process writes; any may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would lie."""
        return self.directory / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes:
        """Content of a blob. Raises ``StoreError`` where it is missing or damaged."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError as error:
            raise StoreError(f"blob {sha256[:12]} cannot be read: {error}; restore the state directory") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"blob {sha256[:12]} is damaged on disk; restore the state directory from a backup")
        return data

    def put(self, data: bytes) -> str:
        """Store ``data`` durably and return its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        target = self.path(sha256)
        if target.exists():
            return sha256
        target.parent.mkdir(exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        self._publish(Path(name), target)
        return sha256

    def adopt(self, source: Path, sha256: str) -> None:
        """Move a file on the same disk, whose hash the caller has verified, into the store."""
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        self._publish(source, target)

    def sweep(self, keep: Collection[str]) -> int:
        """Delete every blob that is not in ``keep``, and leftovers of interrupted writes; returns bytes freed."""
        freed = 0
        for folder in self.directory.iterdir():
            for file in folder.iterdir():
                if file.name not in keep:
                    freed += file.stat().st_size
                    file.unlink()
        return freed

    def _publish(self, source: Path, target: Path) -> None:
        """Content first, then its name, each on disk before the next step."""
        new_folder = not any(target.parent.glob("[0-9a-f]*"))
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)
        sync_directory(target.parent)
        if new_folder:
            sync_directory(self.directory)
