"""Puts an agent together from its configuration, and runs it until a signal comes."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec

from tinyfleet.device_profiles.limits import usable_memory_bytes
from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.config import AgentConfig, size
from tinyfleet.edge_agent.delegation import take_leaf
from tinyfleet.edge_agent.errors import AlreadyRunning, StateError
from tinyfleet.edge_agent.supervisor import Board, Supervisor
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Governor, TaskLimits
from tinyfleet.edge_agent.worker.process import WorkerProcess
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.errors import ConfigError, DataError
from tinyfleet.fedcore.protocol.transport import Transport
from tinyfleet.fedcore.training import allocator

logger = logging.getLogger(__name__)

# Reading the data of a slow board's SD card, once at start.
DESCRIBE_TIMEOUT_S = 300.0
# What ``edge-agent measure`` found, in the state directory.
PROFILE_FILE = "profile.toml"
_SECONDS_A_DAY = 86_400.0


def run(config: AgentConfig) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises ``TinyfleetError`` where it cannot start."""
    allocator.be_small()  # before there are threads
    state = state_directory(config)
    with lock(state):
        take_leaf(os.environ)
        who = identity.obtain(state, config.name)
        board = describe(config, who.device)
        logger.info(
            "device %s, key %s, %d samples, engines: %s",
            who.device,
            who.fingerprint[:12],
            board.samples,
            ", ".join(board.engines) or "none",
        )
        supervisor = assemble(config, state, who, board, config.broker.transport(who.client_id))
        supervisor.run(StopSignal())


def assemble(
    config: AgentConfig, state: Path, who: identity.Identity, board: Board, transport: Transport
) -> Supervisor:
    """All parts of an agent, wired; nothing is started."""
    cpu = config.limits.cpu()
    governor = Governor(
        state / "governor.json",
        memory_limit_bytes=config.limits.memory_limit_bytes,
        usable=usable_memory_bytes,
        threads=config.limits.threads or cpu.threads(),
        policy=config.limits.policy,
        engine=config.engine,
    )
    outbox = Outbox(
        state / "outbox",
        max_bytes=size(config.storage.outbox_limit, "storage.outbox_limit"),
        max_age_s=config.storage.outbox_days * _SECONDS_A_DAY,
        wall_clock=time.time,
    )

    def start_worker(run: str, limits: TaskLimits) -> WorkerProcess:
        return WorkerProcess(run, limits, f"tinyfleet-{who.device}", state / "work" / "worker.log", cpu)

    return Supervisor(
        who,
        config,
        board,
        transport,
        state=state,
        governor=governor,
        outbox=outbox,
        inbox=Inbox(state / "inbox", size(config.storage.inbox_limit, "storage.inbox_limit")),
        start_worker=start_worker,
        clock=time.monotonic,
        rng=random.Random(),
    )


def describe(config: AgentConfig, device: str) -> Board:
    """Ask a short child process what this board has: the supervisor itself loads neither engines nor data.

    Raises ``DataError`` where the device's data cannot be read.
    """
    child = Child("tinyfleet.edge_agent.worker.main", ["--policy", "fresh", "--parent", str(os.getpid())])
    try:
        child.send(
            {
                "cmd": "describe",
                "device": device,
                "data": msgspec.to_builtins(config.data),
                "profile": str(Path(config.state).expanduser() / PROFILE_FILE),
            }
        )
        event = child.receive(DESCRIBE_TIMEOUT_S)
    finally:
        child.kill()
    if event is None:
        raise DataError(f"data.source {config.data.source!r} was not read within {DESCRIBE_TIMEOUT_S:.0f} s")
    if event["event"] != "described":
        reason = event.get("reason") or f"the worker ended with code {event.get('code')}; its error stands above"
        kind = ConfigError if event.get("kind") == "ConfigError" else DataError
        raise kind(f"data.source {config.data.source!r}: {reason}")
    return Board(tuple(event["engines"]), int(event["samples"]), event["profile"], str(event["version"]))


def state_directory(config: AgentConfig) -> Path:
    """The state directory, made where it is missing, readable by its owner alone. Raises ``StateError``."""
    state = Path(config.state).expanduser()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"state directory {state}: {error.strerror}; choose another with --state") from None
    if not os.access(state, os.W_OK | os.X_OK):
        raise StateError(
            f"state directory {state} is not writable by user {os.getuid()}; choose another with --state"
        )
    return state


@contextmanager
def lock(state: Path) -> Iterator[None]:
    """Hold the state directory. Raises ``AlreadyRunning``; the kernel lets go when the process dies."""
    with (state / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(
                f"another agent uses {state}; stop it, or give this one a state directory of its own with --state"
            ) from None
        yield


class StopSignal:
    """Called, it is true once SIGTERM or SIGINT has come."""

    def __init__(self) -> None:
        self._came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        logger.info("%s: stopping", signal.Signals(number).name)
        self._came = True

    def __call__(self) -> bool:
        return self._came
