"""Whole fleets of real processes over a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.store.rows import RunRow, TaskRow
from tinyfleet.coordinator.store.store import Store
from tinyfleet.demo.fleet import DemoFleetSettings, Fleet
from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.run_spec import FleetSettings as RunFleet
from tinyfleet.fedcore.run_spec import RunSpec


class Running:
    """A fleet that is up, its store, and what a test waits for."""

    def __init__(self, fleet: Fleet, store: Store) -> None:
        self.fleet = fleet
        self.store = store

    def until(self, what: str, found: Callable[[], object], timeout_s: float = PATIENCE_S) -> object:
        """Poll; returns what was found. A process that dies for no reason of the test fails it."""
        end = time.monotonic() + timeout_s
        while not (value := found()):
            assert time.monotonic() < end, (
                f"{what}: not within {timeout_s:.0f} s\n{self.fleet.tail('coordinator', 30)}"
            )
            time.sleep(0.05)
        return value

    def ended(self, run: str) -> RunRow | None:
        row = self.store.runs.get(run)
        return row if row.state in ("finished", "failed", "stopped") else None

    def training_task(self, run: str, device: str, after_round: int = 0) -> TaskRow | None:
        """The device's task of the open step, once it trains."""
        steps = self.store.steps.of(run)
        if not steps or steps[-1].round < after_round or steps[-1].finished is not None:
            return None
        for task in self.store.tasks.of(run):
            if task.step == steps[-1].step and task.device == device and task.state == "running":
                return task
        return None

    def worker_of(self, agent: str) -> psutil.Process | None:
        children = psutil.Process(self.fleet.pids[agent]).children(recursive=True)
        return children[0] if children else None


def spec_of(agents: int, rounds: int, *, epochs: int = 1, **fleet: float) -> RunSpec:
    """A FedTiny run on digits, small enough for a test."""
    spec = demo_spec("fedtiny", rounds, 0.1, data="digits", agents=agents)
    return msgspec.structs.replace(
        spec,
        training=msgspec.structs.replace(spec.training, local_epochs=epochs, pretrain_epochs=1),
        fleet=RunFleet(**{"min_devices": agents, "deadline_s": 60.0, "grace_s": 8.0, **fleet}),  # type: ignore[arg-type]
    )


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a fleet; everything is stopped after the test."""
    fleets: list[Fleet] = []
    stores: list[Store] = []

    def begin(spec: RunSpec, agents: int, broker: str = "auto", engine: str = "auto") -> Running:
        fleet = Fleet(tmp_path / "fleet", DemoFleetSettings(agents, spec.data, broker=broker, engine=engine))
        fleets.append(fleet)
        fleet.__enter__()
        fleet.wait((fleet.state / "coordinator.db").exists, PATIENCE_S, "the coordinator")
        store = Store(fleet.state)
        stores.append(store)
        running = Running(fleet, store)
        fleet.wait(lambda: sum(d.online for d in store.devices.all()) == agents, PATIENCE_S, "the fleet")
        return running

    yield begin
    for store in stores:
        store.close()
    for fleet in fleets:
        fleet.stop()


def brokers() -> list[object]:
    """Both brokers; Mosquitto's tests are skipped where it is missing."""
    missing = pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed")
    return [pytest.param("mosquitto", marks=missing), "embedded"]
