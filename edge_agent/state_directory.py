"""The state directory: what lies in it, who may use it, and that one agent at a time does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.edge_agent.errors import AlreadyRunning, StateError
from tinyfleet.fedcore.files import (
    check_private,
    drop_temporaries,
    make_folder,
    make_private,
    make_room_for,
    remove,
)

GOVERNOR = "governor.json"  # what tasks took, and what did not fit
OUTBOX, INBOX = "outbox", "inbox"
MASKS = "masks"  # a folder a run
RELEASES = "releases"  # a folder a run with local privacy: what of it left this board
WORK = "work"  # the result being written, the worker's log
RESULT, WORKER_LOG = "result.blob", "worker.log"  # there
STATUS = "status.json"
PROFILE = "profile.toml"  # the board as ``edge-agent measure`` found it
COST_MODEL = "cost_model.toml"  # what training takes here, as ``edge-agent measure-training`` found it
_LOCK = "lock"


def sweep(state: Path) -> None:
    """Before anything is begun: what an interrupted write left goes, and so does what is in the way of a write.

    Raises ``OSError`` where the disk refuses.
    """
    for name in (OUTBOX, INBOX, MASKS, WORK):
        make_folder(state / name)
    for file in (GOVERNOR, STATUS, f"{WORK}/{WORKER_LOG}"):
        make_room_for(state / file)
    for folder in (state, *(path for path in state.rglob("*") if path.is_dir())):
        drop_temporaries(folder)
    remove(state / WORK / RESULT)


def state_directory(config: AgentConfig) -> Path:
    """The state directory, made where it is missing, its owner's alone. Raises ``StateError``, ``ConfigError``."""
    state = Path(config.state).expanduser()
    try:
        make_private(state)
    except OSError as error:
        raise StateError(f"state directory {state}: {error.strerror}; choose another with --state") from None
    check_private(state)
    if not os.access(state, os.W_OK | os.X_OK):
        raise StateError(
            f"state directory {state} is not writable by user {os.getuid()}; choose another with --state"
        )
    return state


@contextmanager
def lock(state: Path) -> Iterator[None]:
    """Hold the state directory. Raises ``AlreadyRunning``; the kernel lets go when the process dies."""
    with (state / _LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another agent uses {state}; stop it, or give this one a state directory of its own with --state"
            ) from None
        yield
