"""A broker, a coordinator and crowds, each a process of its own; memory and answers are read as they come."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from tinyfleet.bench.fleet.crowd import CrowdSettings
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.rss import status_bytes
from tinyfleet.fedcore.run_spec import (
    DataSettings,
    FleetSettings,
    ModelSettings,
    RunSpec,
    TrainingSettings,
)

DEVICES_A_CROWD = 500
STOP_S = 10.0
START_S = 60.0


def job(rounds: int, devices: int, hostile: int = 0, deadline_s: float = 3600.0) -> RunSpec:
    """Static masks over a ResNet-20: a result has about 300 KB in fp16."""
    return RunSpec(
        name="load",
        method={"name": "static", "density": 0.6, "pretrained": False},
        model=ModelSettings("resnet20", (1, 8, 8), 10),
        training=TrainingSettings(rounds=rounds, pretrain_epochs=0),
        data=DataSettings(source="digits"),
        fleet=FleetSettings(
            min_devices=devices,
            min_results=max(1, devices - hostile),
            deadline_s=deadline_s,
            grace_s=300.0,
            max_retries=0,
            max_refusals=0,
        ),
    )


@dataclass
class Peak:
    """Resident bytes of one process: at first, now, and at most."""

    pid: int
    first: int = 0
    now: int = 0
    most: int = 0

    def look(self) -> None:
        try:
            self.now = status_bytes("VmRSS", Path(f"/proc/{self.pid}/status")) or self.now
        except OSError:
            return  # it has ended
        self.first = self.first or self.now
        self.most = max(self.most, self.now)


@dataclass
class Heard:
    """What crowds have said so far."""

    joined: int = 0
    lost: int = 0
    judged: list[dict[str, Any]] = field(default_factory=list)


class Rig:
    """Use as a context. Raises ``TransportError`` where something does not start or ends by itself."""

    def __init__(self, directory: Path, engine: str, limits: str = "", auto_accepted: int = 20_000) -> None:
        self.directory = directory
        self._engine, self._limits, self._auto_accepted = engine, limits, auto_accepted
        self._broker = MosquittoBroker(directory / "broker")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.heard = Heard()
        self._stopping = threading.Event()
        self.host, self.port = "127.0.0.1", 0
        self.coordinator = self.broker = Peak(0)
        self.store: Store | None = None

    def __enter__(self) -> Rig:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.port = self._broker.start()
            self._start_coordinator()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all of it, and delete what it wrote."""
        self._stopping.set()
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.store is not None:
            self.store.close()
        self._broker.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- what there is to start ---------------------------------------------------------

    def add_devices(self, count: int, hostile: int = 0, train_s: float = 0.0) -> None:
        """Virtual devices, the hostile ones last; returns when all are welcome. Raises ``TransportError``."""
        before = first = self.heard.joined
        for start in range(0, count, DEVICES_A_CROWD):
            size = min(DEVICES_A_CROWD, count - start)
            bad = max(0, min(size, start + size - (count - hostile)))
            settings = CrowdSettings(self.host, self.port, first + start, size, bad, train_s)
            command = [sys.executable, "-m", "tinyfleet.bench.fleet.crowd", msgspec.json.encode(settings).decode()]
            crowd = self._spawn(command, stdout=subprocess.PIPE)
            threading.Thread(target=self._hear, args=(crowd,), daemon=True).start()
        self.until(lambda: self.heard.joined >= before + count, START_S + count / 10, f"{count} devices to join")

    def submit(self, spec: RunSpec) -> str:
        """Queue a run; returns its name."""
        assert self.store is not None  # noqa: S101 - made on entry
        return self.store.runs.submit(spec)

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something. Raises ``TransportError`` where it does not come, or a process ends."""
        end = time.monotonic() + seconds
        while not done():
            for process in self._processes:
                if process.poll() is not None:
                    raise TransportError(f"a process ended with {process.returncode}: {self.log()[-600:]}")
            if time.monotonic() > end:
                raise TransportError(f"waited {seconds:.0f} s in vain for {what}: {self.log()[-600:]}")
            time.sleep(0.05)

    def log(self) -> str:
        """What the coordinator said."""
        return (self.directory / "coordinator.log").read_text(errors="replace")

    # -- inside -------------------------------------------------------------------------

    def _start_coordinator(self) -> None:
        configuration = self.directory / "coordinator.toml"
        configuration.write_text(
            f'auto_accept = true\nheartbeat_s = 30.0\nevaluate = false\nengine = "{self._engine}"\n'
            f'[broker]\nurl = "mqtt://{self.host}:{self.port}"\n'
            f"[limits]\nauto_accepted = {self._auto_accepted}\n{self._limits}"
        )
        state = self.directory / "state"
        command = [sys.executable, "-c", "from tinyfleet.coordinator.cli import main; main()", "run"]
        command += ["--state", str(state), "--config", str(configuration)]
        with (self.directory / "coordinator.log").open("wb") as log:
            process = self._spawn(command, stdout=log, stderr=log)
        self.until((state / "coordinator.db").exists, START_S, "the coordinator")
        self.until(lambda: "connected to the broker" in self.log(), START_S, "the coordinator's connection")
        self.store = Store(state)
        self.coordinator, self.broker = Peak(process.pid), Peak(self._broker.pid)

    def _spawn(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, **streams)
        self._processes.append(process)
        return process

    def _hear(self, crowd: subprocess.Popen[bytes]) -> None:
        for line in crowd.stdout or ():
            document = msgspec.json.decode(line)
            self.heard.joined += document.get("joined", 0)
            if "lost" in document:
                self.heard.lost = max(self.heard.lost, document["lost"])
            elif "verdict" in document:
                self.heard.judged.append(document)

    def _watch(self) -> None:
        while not self._stopping.wait(0.25):
            self.coordinator.look()
            self.broker.look()
