"""The demo's fleet: broker, coordinator and agents, each an operating system process of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from tinyfleet.device_profiles.emulated import BOARD_VARIABLE
from tinyfleet.emulation.board import Emulated, EmulatedLimits, plan_here
from tinyfleet.emulation.run import Box
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError, TinyfleetError
from tinyfleet.fedcore.run_spec import DataSettings

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
TAIL_LINES = 15


class FleetError(TinyfleetError):
    """A process of the demo's fleet ended or never came up; the message has the tail of its log."""

    exit_code = 8


class Broker(Protocol):
    """A broker that the demo starts itself."""

    def start(self) -> int: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class DemoFleetSettings:
    """What to start. ``broker`` is ``auto``, ``mosquitto``, ``embedded`` or the URL of a running one."""

    agents: int
    data: DataSettings
    broker: str = "auto"
    memory_limit: str | int = 0
    engine: str = "auto"
    boards: tuple[str, ...] = ()  # emulated around the agents, in turn


class Fleet:
    """Starts everything on entry and stops everything on exit, whatever happens between.

    Raises ``FleetError`` where a process does not come up, ``ConfigError`` for a broker that is not here;
    ``ProfileError`` and ``ConfigError``, when it is made, for a board that cannot be emulated.
    """

    def __init__(self, directory: Path, settings: DemoFleetSettings) -> None:
        self.directory = directory
        self.settings = settings
        self.state = directory / "coordinator"
        self.broker_kind = ""
        self.broker_url = ""
        self._broker: Broker | None = None
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lost: set[str] = set()
        self._boxes: dict[str, Box] = {}
        self._limits: dict[str, EmulatedLimits] = {
            board: plan_here(board) for board in dict.fromkeys(settings.boards)
        }

    # -- life ---------------------------------------------------------------------------

    def __enter__(self) -> Fleet:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start_broker()
            for name in self.agents:
                self.start_agent(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop agents, coordinator, broker, in that order: SIGTERM, SIGKILL after a grace. May be called twice."""
        agents = [process for name, process in self._processes.items() if name != COORDINATOR]
        coordinator = [process for name, process in self._processes.items() if name == COORDINATOR]
        for group in (agents, coordinator):
            _stop_all(group)
        self._processes.clear()
        for box in self._boxes.values():
            box.close()
        self._boxes.clear()
        if self._broker is not None:
            self._broker.stop()
            self._broker = None

    # -- the broker ---------------------------------------------------------------------

    def stop_broker(self) -> None:
        """Take a broker of our own away. Raises ``ConfigError`` where it is none."""
        self._own_broker().stop()

    def restart_broker(self) -> None:
        """Bring it back, on its old port."""
        broker = self._own_broker()
        broker.stop()
        broker.start()

    def broker_answers(self) -> bool:
        """Whether the broker's port takes connections; True for one that is not ours to look after."""
        if self._broker is None:
            return True
        address = urlsplit(self.broker_url)
        try:
            socket.create_connection((str(address.hostname), int(address.port or 1883)), 1.0).close()
        except OSError:
            return False
        return True

    def _own_broker(self) -> Broker:
        if self._broker is None:
            raise ConfigError(f"the {self.broker_kind} broker is not a process of this fleet")
        return self._broker

    # -- parts --------------------------------------------------------------------------

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents' names, in the order of their parts of the data."""
        return tuple(f"agent-{index}" for index in range(self.settings.agents))

    @property
    def emulated(self) -> Mapping[str, Emulated]:
        """What each agent's emulated board holds and misses, by the agent's name."""
        return {name: box.told() for name, box in self._boxes.items()}

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by name: ``coordinator`` and the agents that live."""
        return {name: process.pid for name, process in self._processes.items() if process.poll() is None}

    def log_of(self, name: str) -> Path:
        """Where a process writes."""
        return self.directory / f"{name}.log"

    def check(self) -> list[str]:
        """Names of agents that have ended since the last call; the rest of the fleet goes on without them.

        Raises ``FleetError`` where the coordinator or the last agent has ended, with the end of its log.
        """
        ended = [name for name in self._processes if name not in self._lost and not self.alive(name)]
        self._lost.update(ended)
        if COORDINATOR in ended or (ended and not any(self.alive(name) for name in self.agents)):
            raise FleetError(self.obituary(ended[-1]))
        return ended

    def kill(self, name: str) -> None:
        """SIGKILL a process: what a power cut does."""
        self._processes[name].kill()
        self._processes[name].wait()

    def alive(self, name: str) -> bool:
        """Whether a process runs."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def obituary(self, name: str) -> str:
        """How a process ended, and the last lines that it wrote."""
        code = self._processes[name].returncode
        return f"{name} ended with {_exit_text(code)}; its log {self.log_of(name)} ends:\n{self.tail(name)}"

    def tail(self, name: str, lines: int = TAIL_LINES) -> str:
        """The last lines of a process's log."""
        try:
            text = self.log_of(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _start_broker(self) -> None:
        """Mosquitto, the embedded broker inside the coordinator, or one that runs already."""
        choice = self.settings.broker
        if choice.startswith(("mqtt://", "mqtts://")):
            BrokerSettings(choice).exposure()
            self.broker_kind, self.broker_url = "given", choice
            self._start_coordinator(["--broker", choice])
            return
        if choice not in ("auto", "mosquitto", "embedded"):
            raise ConfigError(f"broker {choice!r}: give auto, mosquitto, embedded, or mqtt://HOST:PORT")
        from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

        installed = MosquittoBroker.available()
        if choice == "mosquitto" and not installed:
            raise ConfigError("Mosquitto is not installed: apt install mosquitto, or give --broker embedded")
        if choice != "embedded" and installed:
            broker = MosquittoBroker(self.directory / "broker")
            self._broker = broker
            self.broker_kind, self.broker_url = "mosquitto", f"mqtt://127.0.0.1:{broker.start()}"
            self._start_coordinator(["--broker", self.broker_url])
            return
        self.broker_kind = "embedded"
        self._start_coordinator(["--embedded-broker", "0"])
        told = self.state / "broker.url"
        self.wait(told.exists, 30.0, "the embedded broker")
        self.broker_url = told.read_text(encoding="utf-8").strip()

    def _start_coordinator(self, broker: list[str]) -> None:
        (self.state / "broker.url").unlink(missing_ok=True)
        self._start(
            COORDINATOR, "tinyfleet.coordinator.cli", ["run", "--state", str(self.state), "--auto-accept", *broker]
        )

    def start_agent(self, name: str) -> None:
        """Write an agent's configuration and start it; also after it was killed."""
        self._lost.discard(name)
        config = self.directory / f"{name}.toml"
        config.write_text(self.agent_toml(name), encoding="utf-8")
        self._start(name, "tinyfleet.edge_agent.cli", ["run", "--config", str(config)], self._box(name))

    def _box(self, name: str) -> Box | None:
        """The limits of the agent's board, set anew; None where no board is emulated."""
        boards = self.settings.boards
        if not boards:
            return None
        if name in self._boxes:
            self._boxes.pop(name).close()
        self._boxes[name] = Box(self._limits[boards[self.agents.index(name) % len(boards)]])
        return self._boxes[name]

    def agent_toml(self, name: str) -> str:
        """agent.toml of one demo agent."""
        from tinyfleet.edge_agent.config import AgentConfig, as_toml
        from tinyfleet.fedcore.settings import convert

        index = self.agents.index(name)
        document = {
            "name": name,
            "state": str(self.directory / name),
            "engine": self.settings.engine,
            # The embedded broker leaves an MQTT 5 connect with a will unanswered: asking costs five seconds.
            "broker": {"url": self.broker_url, "protocol": "3.1.1" if self.broker_kind == "embedded" else "auto"},
            "data": {**msgspec.to_builtins(self.settings.data), "index": index},
            "limits": {"memory_limit": self.settings.memory_limit, "threads": 1},
        }
        return as_toml(convert(document, AgentConfig, "the demo's agent"))

    def _start(self, name: str, module: str, arguments: list[str], box: Box | None = None) -> None:
        """Start ``main`` of a module in a session of its own, so that Ctrl-C reaches only the demo."""
        code = f"from {module} import main; main()"
        with self.log_of(name).open("ab") as output:

            def spawn() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    [sys.executable, "-c", code, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=None if box is None else {**os.environ, BOARD_VARIABLE: box.limits.board},
                    preexec_fn=None if box is None else box.before_exec,  # noqa: PLW1509 - limits come first
                )

            try:
                self._processes[name] = spawn() if box is None else box.start(spawn)
            except subprocess.SubprocessError as error:
                raise FleetError(f"{name}: its board's limits cannot be set here: {error}") from None

    # -- waiting ------------------------------------------------------------------------

    def wait(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll ``ready``. Raises ``FleetError`` where a process ends or the time is over."""
        end = time.monotonic() + timeout_s
        while not ready():
            for name in self.check():
                raise FleetError(self.obituary(name))
            if time.monotonic() > end:
                raise FleetError(f"{what} did not come up within {timeout_s:.0f} s; logs are in {self.directory}")
            time.sleep(0.05)


COORDINATOR = "coordinator"


def _stop_all(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_GRACE_S
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process %d did not stop within %.0f s and is killed", process.pid, STOP_GRACE_S)
            process.kill()
            process.wait()


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
