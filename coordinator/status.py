"""A small file that tells ``coordinator status`` whom the running coordinator reaches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import make_room_for, read_file
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.reach.watch import Trouble

STATUS = "status.json"


class ServiceStatus(msgspec.Struct, frozen=True):
    """``broker`` is its address; ``trouble`` is what keeps the coordinator from it, or from all devices."""

    pid: Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
    broker: str
    connected: bool
    trouble: Trouble | None = None
    stopped: bool = False

    @property
    def running(self) -> bool:
        """Whether the process that wrote it is there."""
        if self.stopped:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


class ServiceStatusFile:
    """Written when something changed, and not synced."""

    def __init__(self, state: Path, broker: str) -> None:
        self._path, self._broker = state / STATUS, broker
        make_room_for(self._path)
        self._written: ServiceStatus | None = None

    def write(self, *, connected: bool, trouble: Trouble | None, stopped: bool = False) -> None:
        """Put it on disk where it differs from what is there. A disk that is full is told of by the store."""
        status = ServiceStatus(os.getpid(), self._broker, connected, trouble, stopped)
        if status == self._written:
            return
        self._written = status
        temporary = self._path.with_name(f".{STATUS}.tmp")
        try:
            temporary.write_bytes(msgspec.json.encode(status))
            temporary.replace(self._path)
        except OSError:
            self._written = None


def read_status(state: Path) -> ServiceStatus | None:
    """The last status, or None where no coordinator has run here."""
    try:
        return read_document(read_file(state / STATUS), ServiceStatus)
    except (OSError, CodecError):
        return None
