"""A service and its agents over one loop broker, driven by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.coordinator.toy import NO_DATA, InstantEngine, create_toy
from tests.coordinator.toy_agent import Agent
from tests.signing import FLEET_KEY
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.run.scheduler import Creator
from tinyfleet.coordinator.service import Service
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.run_spec import RunSpec


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """A service and its agents over one loop broker, driven by hand."""

    def __init__(self, directory: Path, devices: int = 3, create: Creator = create_toy, **config: Any) -> None:
        self.directory = directory
        self.config = CoordinatorConfig(**{"auto_accept": True, **config})
        self.clock = Clock()
        self.create = create
        self.key = FLEET_KEY
        self.broker = LoopBroker()
        self.engine = InstantEngine()
        self._generation = itertools.count()
        self.agents = {
            name: Agent(self.broker, name, directory / name) for name in (f"board-{i}" for i in range(devices))
        }
        self.start()

    def start(self) -> None:
        """A coordinator process begins (again, where ``vanish`` ended the last)."""
        self.store = Store(self.directory / "state", clock=lambda: 1.7e9 + self.clock.now, mend=True)
        self.transport = LoopTransport(self.broker, f"coordinator-{next(self._generation)}")
        self.engine = InstantEngine()
        self.service = Service(
            self.store,
            self.transport,
            self.config,
            self.key,
            engine=self.engine,
            create=self.create,
            clock=self.clock,
        )
        self.service.start()

    def vanish(self) -> None:
        """The coordinator dies without a word: nothing in memory survives, nothing is flushed."""
        self.transport.close()
        self.store.close()

    def hello(self) -> None:
        for agent in self.agents.values():
            agent.hello()
        self.turn()

    def turn(self) -> None:
        """Let everything that is on its way arrive, until nothing moves."""
        for _ in range(500):
            self.service.poll(0)
            if self._pump():
                continue
            self.service.poll(0)
            if not self._pump():
                return
        raise AssertionError("the fleet does not come to rest")

    def _pump(self) -> bool:
        moved = [agent.pump() for agent in self.agents.values()]
        return any(moved)

    def sleep(self, seconds: float) -> None:
        """Time passes; agents send a heartbeat every second."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 1.0)
            for agent in self.agents.values():
                agent.heartbeat()
            self.turn()

    def counted(self) -> int:
        """How many results the fold of the open step holds."""
        run = self.service._scheduler._run
        assert run is not None
        assert run._open is not None
        return run._open.results

    def state_bytes(self, run: str) -> bytes:
        path = self.store.state_blob(run)
        assert path is not None
        return path.read_bytes()


def expected_state(spec: RunSpec, devices: Iterable[str], rounds: int | None = None) -> bytes:
    """The same run, computed without any of the coordinator."""
    method = create_toy(spec)
    state = method.initial_state(None, NO_DATA)
    for _ in range(spec.training.rounds if rounds is None else rounds):
        task, fold = method.configure_round(state), method.begin_fold(state)
        for device in devices:
            method.fold(fold, method.answer(task, device))
        state = method.next_state(state, fold)
    return codec.encode(state, precision="fp32")


def seen(agent: Agent, kind: type[Any]) -> list[Any]:
    """What an agent has heard of that kind, in order."""
    return [message for message in agent.seen if isinstance(message, kind)]


def hold_back(fleet: Fleet, *names: str) -> None:
    """Those agents train, and keep their results back."""
    for name in names:
        fleet.agents[name].holds_results = True


def settle(fleet):
    """Handle all that waits: ``turn`` stops where nobody answers."""
    while len(fleet.transport._events):
        fleet.service.poll(0)
    fleet.turn()


def devices(fleet):
    """Rows by name."""
    return {row.device: row for row in fleet.store.devices.all()}
