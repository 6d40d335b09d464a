"""A small file that tells ``edge-agent status`` what the running agent is doing."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tinyfleet.edge_agent.identity import Identity
from tinyfleet.fedcore.protocol.signed.signatures import shown


class AgentStatus(msgspec.Struct, frozen=True):
    """``pid`` and ``session`` tell one agent start from the next."""

    device: str
    session: str
    pid: int
    link: str
    task_state: str
    task: tuple[str, int] | None = None
    fingerprint: str = ""  # of this board's key, as the coordinator's `devices list` shows it
    fleet: str = ""  # the id of the fleet that is heard; empty: none yet
    trouble: str = ""  # who else speaks to this board, or as it


class StatusFile:
    """Written when something changed, and not synced: it wears the board's card otherwise."""

    def __init__(self, path: Path, identity: Identity, session: str) -> None:
        self._path = path
        self._identity = identity
        self._session = session
        self._written: AgentStatus | None = None

    def write(
        self, link: str, task_state: str, task: tuple[str, int] | None, fleet: str = "", trouble: str = ""
    ) -> None:
        """Put the state on disk where it differs from what is there."""
        who = self._identity
        mark, pid = shown(who.fingerprint), os.getpid()
        status = AgentStatus(who.device, self._session, pid, str(link), str(task_state), task, mark, fleet, trouble)
        if status != self._written:
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            temporary.write_bytes(msgspec.json.encode(status))
            temporary.replace(self._path)
            self._written = status


def read(path: Path) -> AgentStatus | None:
    """The last status, or None where no agent has run here."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=AgentStatus)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
