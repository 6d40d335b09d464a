"""Puts an agent together from its configuration, and runs it until a signal comes."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from tinyfleet.device_profiles.limits import usable_memory_bytes
from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.config import AgentConfig, size
from tinyfleet.edge_agent.delegation import take_leaf
from tinyfleet.edge_agent.fleet.pin import FILE_NAME as PIN
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.self_report import Board
from tinyfleet.edge_agent.state_directory import (
    GOVERNOR,
    INBOX,
    OUTBOX,
    PROFILE,
    WORK,
    WORKER_LOG,
    lock,
    state_directory,
    sweep,
)
from tinyfleet.edge_agent.supervisor import Supervisor
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Governor, TaskLimits
from tinyfleet.edge_agent.worker.commands import (
    DescribeCommand,
    Described,
    Exited,
    OverBudget,
    TaskFailed,
    Unfit,
    WorkerEvent,
)
from tinyfleet.edge_agent.worker.process import WorkerProcess
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.errors import ConfigError, DataError
from tinyfleet.fedcore.protocol.signed.signatures import shown
from tinyfleet.fedcore.protocol.transport import Transport
from tinyfleet.fedcore.training import allocator

logger = logging.getLogger(__name__)

# Reading the data of a slow board's SD card, once at start; whether a signal has come is looked at meanwhile.
DESCRIBE_TIMEOUT_S = 300.0
_DESCRIBE_LOOK_S = 0.2
DESCRIBE_ATTEMPTS = 3  # by processes that a signal ends: for lack of memory, say
_SECONDS_A_DAY = 86_400.0


def run(config: AgentConfig) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises ``TinyfleetError`` where it cannot start."""
    allocator.be_small()  # before there are threads
    stopping = StopSignal()
    state = state_directory(config)
    with lock(state):
        sweep(state)
        take_leaf(os.environ)
        who = identity.obtain(state, config.name)
        pin = FleetPin(state / PIN, config.fleet)
        transport = config.broker.transport(who.client_id)  # before the data is read, which may take minutes
        stopping.at_once = transport.hurry
        board = describe(config, who.device, stopping)
        if board is None:
            return
        logger.info(
            "device %s, key %s, fleet %s, %d samples, engines: %s",
            who.device,
            shown(who.fingerprint),
            shown(pin.fleet) or "none yet",
            board.samples,
            ", ".join(board.engines) or "none",
        )
        supervisor = assemble(config, state, who, pin, board, transport)
        gc.collect()  # what starting took, parsers and the like, is not held for weeks
        allocator.trim()
        supervisor.run(stopping)


def assemble(
    config: AgentConfig,
    state: Path,
    who: identity.Identity,
    pin: FleetPin,
    board: Board,
    transport: Transport,
) -> Supervisor:
    """All parts of an agent, wired; nothing is started."""
    cpu = config.limits.cpu()
    governor = Governor(
        state / GOVERNOR,
        memory_limit_bytes=config.limits.memory_limit_bytes,
        usable=usable_memory_bytes,
        threads=config.limits.threads or cpu.threads(),
        policy=config.limits.policy,
        engine=config.engine,
    )
    outbox = Outbox(
        state / OUTBOX,
        max_bytes=size(config.storage.outbox_limit, "storage.outbox_limit"),
        max_age_s=config.storage.outbox_days * _SECONDS_A_DAY,
        wall_clock=time.time,
    )

    def start_worker(run: str, limits: TaskLimits) -> WorkerProcess:
        return WorkerProcess(run, limits, f"tinyfleet-{who.device}", state / WORK / WORKER_LOG, cpu)

    return Supervisor(
        who,
        pin,
        config,
        board,
        transport,
        state=state,
        governor=governor,
        outbox=outbox,
        inbox=Inbox(state / INBOX, size(config.storage.inbox_limit, "storage.inbox_limit")),
        start_worker=start_worker,
        clock=time.monotonic,
        rng=random.Random(),
    )


def describe(config: AgentConfig, device: str, stopping: Callable[[], bool]) -> Board | None:
    """Ask a short child process what this board has: the supervisor itself loads neither engines nor data.

    None where ``stopping`` before it has answered. Raises ``DataError`` where the device's data cannot be read.
    """
    profile = Path(config.state).expanduser() / PROFILE
    command = DescribeCommand(device, msgspec.to_builtins(config.data), str(profile))
    for attempt in range(DESCRIBE_ATTEMPTS):
        event = _answer(command, stopping)
        if stopping():
            return None
        if not (isinstance(event, Exited) and event.code < 0):
            break
        if attempt + 1 < DESCRIBE_ATTEMPTS:
            logger.warning(
                "the process that reads the data was ended by %s; again", signal.Signals(-event.code).name
            )
    match event:
        case None:
            raise DataError(f"data.source {config.data.source!r} was not read within {DESCRIBE_TIMEOUT_S:.0f} s")
        case Described(engines, samples, found, version, data):
            return Board(engines, samples, found, version, data)
        case Unfit("ConfigError" | "Unavailable", reason):
            raise ConfigError(f"data.source {config.data.source!r}: {reason}")
        case Unfit(_, reason) | TaskFailed(_, reason) | OverBudget(reason):
            raise DataError(f"data.source {config.data.source!r}: {reason}")
        case Exited(code):
            reason = f"the worker ended with code {code}; its error stands above"
            raise DataError(f"data.source {config.data.source!r}: {reason}")
        case other:
            raise RuntimeError(f"{other} is no answer to a description")  # a defect of the worker's


def _answer(command: DescribeCommand, stopping: Callable[[], bool]) -> WorkerEvent | None:
    """What a child says to ``command``, its end included; None where it says nothing in time."""
    child = Child("tinyfleet.edge_agent.worker.main", ["--policy", "fresh", "--parent", str(os.getpid())])
    deadline = time.monotonic() + DESCRIBE_TIMEOUT_S
    try:
        child.send(command)
        while time.monotonic() < deadline and not stopping():
            said = child.receive(_DESCRIBE_LOOK_S)
            if said is not None:
                event: WorkerEvent = msgspec.convert(said, type=WorkerEvent)
                return event
    finally:
        child.kill()
    return None


class StopSignal:
    """Called, it is true once SIGTERM or SIGINT has come.

    A shell lets its background jobs ignore SIGINT from birth: from here on it counts all the same. ``at_once`` is
    called in the handler, where neither a lock may be taken nor a line be logged.
    """

    def __init__(self) -> None:
        self.at_once: Callable[[], None] | None = None
        self._came: int | None = None
        self._told = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        # No more than that: in the middle of a line of log another cannot be written, and the signal would be lost.
        self._came = number
        if self.at_once is not None:
            self.at_once()

    def __call__(self) -> bool:
        if self._came is not None and not self._told:
            self._told = True
            logger.info("%s: stopping", signal.Signals(self._came).name)
        return self._came is not None
