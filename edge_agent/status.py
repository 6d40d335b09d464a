"""A small file that tells ``edge-agent status`` what the running agent is doing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.documents import read_document


class AgentStatus(msgspec.Struct, frozen=True):
    """``pid`` and ``session`` tell one agent start from the next."""

    device: str
    session: str
    pid: int
    link: str
    task_state: str
    task: tuple[str, int] | None = None


class StatusFile:
    """Written when something changed, and not synced: it wears the board's card otherwise."""

    def __init__(self, path: Path, device: str, session: str) -> None:
        self._path = path
        self._device = device
        self._session = session
        self._written: AgentStatus | None = None

    def write(self, link: str, task_state: str, task: tuple[str, int] | None) -> None:
        """Put the state on disk where it differs from what is there."""
        status = AgentStatus(self._device, self._session, os.getpid(), str(link), str(task_state), task)
        if status != self._written:
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            temporary.write_bytes(msgspec.json.encode(status))
            temporary.replace(self._path)
            self._written = status


def read(path: Path) -> AgentStatus | None:
    """The last status, or None where no agent has run here, or its file is damaged."""
    try:
        return read_document(path.read_bytes(), AgentStatus)
    except (FileNotFoundError, CodecError):
        return None
