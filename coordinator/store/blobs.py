"""Content-addressed files: ``blobs/ab/<sha256>``. What is there under its final name is whole and on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from tinyfleet.coordinator.errors import DamagedBlob, StoreError
from tinyfleet.fedcore.files import make_folder, make_room_for, sync_directory


class BlobStore:
    """Blobs below one directory. Only one process writes; any may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        make_folder(directory)

    def path(self, sha256: str) -> Path:
        """Where a blob lies, or would lie."""
        return self.directory / sha256[:2] / sha256

    def read(self, sha256: str) -> bytes:
        """Content of a blob. Raises ``DamagedBlob`` where it is missing or is not what its name says."""
        try:
            data = self.path(sha256).read_bytes()
        except OSError as error:
            raise DamagedBlob(f"blob {sha256[:12]} cannot be read: {error}; restore it from a backup") from None
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedBlob(f"blob {sha256[:12]} is damaged on disk; restore it from a backup")
        return data

    def is_sound(self, sha256: str) -> bool:
        """True where the blob is there and is what its name says."""
        try:
            self.read(sha256)
        except DamagedBlob:
            return False
        return True

    def put(self, data: bytes) -> str:
        """Store ``data`` durably, in the place of a damaged copy too, and return its SHA-256.

        Raises ``StoreError`` where it cannot be written.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if self.is_sound(sha256):
            return sha256
        target = self.path(sha256)
        try:
            make_folder(target.parent)
            descriptor, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            self._publish(Path(name), target)
        except OSError as error:
            raise StoreError(f"blob {sha256[:12]}: {error}; is the disk full or read-only?") from error
        return sha256

    def adopt(self, source: Path, sha256: str) -> None:
        """Move a file on the same disk, whose hash the caller has verified, into the store.

        Raises ``StoreError`` where it cannot be written.
        """
        target = self.path(sha256)
        try:
            make_folder(target.parent)
            self._publish(source, target)
        except OSError as error:
            raise StoreError(f"blob {sha256[:12]}: {error}; is the disk full or read-only?") from error

    def is_empty(self) -> bool:
        """True where there is no file at all."""
        return next(self._files(), None) is None

    def sweep(self, keep: Collection[str]) -> int:
        """Delete every blob that is not in ``keep``, and leftovers of interrupted writes; returns bytes freed."""
        freed = 0
        for file in self._files():
            if file.name not in keep:
                freed += file.stat().st_size
                file.unlink()
        return freed

    def _files(self) -> Iterator[Path]:
        """All files where blobs lie; what else somebody put there is none of ours."""
        for folder in self.directory.iterdir():
            if folder.is_dir():
                yield from (file for file in folder.iterdir() if file.is_file())

    def _publish(self, source: Path, target: Path) -> None:
        """Content first, then its name, each on disk before the next step."""
        make_room_for(target)
        new_folder = not any(target.parent.glob("[0-9a-f]*"))
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)
        sync_directory(target.parent)
        if new_folder:
            sync_directory(self.directory)
