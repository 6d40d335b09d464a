"""One coordinator to a state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from tinyfleet.coordinator.errors import StateInUse, StoreError
from tinyfleet.fedcore.files import make_private


class StateLock:
    """Holds ``DIR/coordinator.lock`` by flock: the kernel lets go of it when the process ends, however it ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "coordinator.lock"
        self._descriptor = -1

    def __enter__(self) -> StateLock:
        """Take it. Raises ``StateInUse``, ``StoreError``."""
        try:
            make_private(self._path.parent)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{self._path}: {error}; choose a directory that can be written") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise StateInUse(
                f"{self._path.parent} is in use by the coordinator with process id {holder or 'unknown'}; "
                "stop that one, or choose another --state"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
