"""The runs that this board keeps masks of: a folder each, with the run's name, so that its end can be asked for."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from tinyfleet.fedcore.files import make_folder, make_room_for, remove, write_atomic

logger = logging.getLogger(__name__)

KEPT_RUNS = 8  # those used last; of others no coordinator may know any more
_NAME = "run"
_LONGEST = 256  # bytes of a run's name


class HeldRuns:
    """Folders in ``directory``; what else lies there, or is damaged, is put aside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def folder(self, run: str) -> Path:
        """Where a run's masks lie. Run names come from the network and may hold anything."""
        return self._directory / hashlib.sha256(run.encode()).hexdigest()[:16]

    def keep(self, run: str) -> Path:
        """The folder of a run that is at work, named after it; those used longest ago go. Raises ``OSError``."""
        folder = self.folder(run)
        make_folder(folder)
        name = folder / _NAME
        make_room_for(name)
        if _read(name) != run:
            write_atomic(name, run.encode())
        name.touch()
        others = [path for path in self._directory.iterdir() if path != folder]
        for old in sorted(others, key=_used, reverse=True)[KEPT_RUNS - 1 :]:
            logger.info("masks of a run that was not heard of for long are removed")
            remove(old)
        return folder

    def names(self) -> list[str]:
        """The runs whose names can be read, those used last first."""
        if not self._directory.is_dir():
            return []
        folders = sorted(self._directory.iterdir(), key=_used, reverse=True)
        found = {folder: _read(folder / _NAME) for folder in folders}
        return [run for folder, run in found.items() if run and folder == self.folder(run)]

    def forget(self, run: str) -> None:
        """The run has ended."""
        remove(self.folder(run))


def _read(name: Path) -> str:
    """The run of a folder; empty where that cannot be told."""
    try:
        with name.open("rb") as file:
            return file.read(_LONGEST).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def _used(folder: Path) -> float:
    """When a task of the run began last; 0 where that cannot be told."""
    try:
        return (folder / _NAME).stat().st_mtime
    except OSError:
        return 0.0
