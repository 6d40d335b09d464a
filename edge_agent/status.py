"""A small file that tells ``edge-agent status`` what the running agent is doing."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

import msgspec

from tinyfleet.edge_agent.identity import Identity
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.reach.watch import Trouble
from tinyfleet.fedcore.protocol.signed.signatures import shown

logger = logging.getLogger(__name__)


class AgentStatus(msgspec.Struct, frozen=True):
    """``pid`` and ``session`` tell one agent start from the next; ``trouble`` keeps the coordinator away, and
    ``refused`` is the latest result that does not count, and why."""

    device: str
    session: str
    pid: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    link: str
    task_state: str
    task: tuple[str, int] | None = None
    fingerprint: str = ""  # of this board's key, as the coordinator's `devices list` shows it
    fleet: str = ""  # the id of the fleet that is heard; empty: none yet
    others: str = ""  # who else speaks to this board, or as it
    trouble: Trouble | None = None
    refused: str = ""
    renewal: str = ""  # why the certificate was not renewed


class StatusFile:
    """Written when something changed, and not synced: it wears the board's card otherwise."""

    def __init__(self, path: Path, identity: Identity, session: str) -> None:
        self._path = path
        self._identity = identity
        self._session = session
        self._written: AgentStatus | None = None
        self._failing = False

    def write(
        self,
        *,
        link: str,
        task_state: str,
        task: tuple[str, int] | None = None,
        fleet: str = "",
        others: str = "",
        trouble: Trouble | None = None,
        refused: str = "",
        renewal: str = "",
    ) -> None:
        """Put the state on disk where it differs from what is there; fields are those of ``AgentStatus``."""
        status = AgentStatus(
            device=self._identity.device,
            session=self._session,
            pid=os.getpid(),
            link=str(link),
            task_state=str(task_state),
            task=task,
            fingerprint=shown(self._identity.fingerprint),
            fleet=fleet,
            others=others,
            trouble=trouble,
            refused=refused,
            renewal=renewal,
        )
        if status == self._written:
            return
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(status))
            temporary.replace(self._path)
        except OSError as error:
            if not self._failing:
                logger.warning("%s cannot be written: %s; the agent goes on", self._path, error)
            self._failing = True  # and tried again each turn: what it says is wanted
            return
        self._written, self._failing = status, False


def read(path: Path) -> AgentStatus | None:
    """The last status, or None where no agent has run here, or its file is damaged."""
    try:
        return read_document(read_file(path), AgentStatus)
    except (OSError, CodecError):
        return None
