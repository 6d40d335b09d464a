"""The coordinator's side of its engine process: the only place where an engine works for it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The initial state lies at ``path`` (codec, fp32)."""

    path: Path


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Loss and accuracy of the state after ``step`` on held-out test data."""

    step: int
    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The work could not be done; the process may be gone."""

    reason: str


EngineAnswer: TypeAlias = Prepared | Evaluated | EngineFailed


class EngineRequests(Protocol):
    """What the service asks of an engine. Nothing here blocks; answers come through ``poll``, in order."""

    def prepare(self, spec: RunSpec, target: Path) -> None:
        """Compute the run's initial state into ``target``."""

    def evaluate(self, spec: RunSpec, step: int, state: Path) -> None:
        """Measure the state after ``step`` on the run's test data."""

    def poll(self) -> EngineAnswer | None:
        """The next answer, if one is there."""

    def close(self) -> None:
        """The run has ended: give all memory back."""


class EngineProcess:
    """Runs ``engine_child``: started when first needed, warm for the run, gone after it."""

    def __init__(self, *, engine: str = "auto", threads: int = 1, nice: int = 5) -> None:
        self._arguments = ["--engine", engine, "--threads", str(threads), "--nice", str(nice)]
        self._child: Child | None = None
        self._waiting = 0  # answers that are still to come

    def prepare(self, spec: RunSpec, target: Path) -> None:
        """Compute the run's initial state into ``target``."""
        self._send(spec, {"command": "prepare", "target": str(target)})

    def evaluate(self, spec: RunSpec, step: int, state: Path) -> None:
        """Measure the state after ``step`` on the run's test data."""
        self._send(spec, {"command": "evaluate", "step": step, "state": str(state)})

    def poll(self) -> EngineAnswer | None:
        """The next answer, if one is there."""
        event = None if self._child is None else self._child.receive()
        if event is None:
            return None
        match event.get("event"):
            case "prepared":
                self._waiting -= 1
                return Prepared(Path(event["path"]))
            case "evaluated":
                self._waiting -= 1
                return _evaluated(event)
            case "failed":
                self._waiting -= 1
                return EngineFailed(str(event["reason"]))
            case "exit":
                waiting = self._waiting
                self.close()
                if waiting:
                    return EngineFailed(
                        f"the engine process ended with code {event['code']}; its messages are above"
                    )
        return None

    def close(self) -> None:
        """End the process; what it was doing is dropped."""
        child, self._child, self._waiting = self._child, None, 0
        if child is not None:
            child.process.terminate()
            child.stop(grace_s=2.0)

    def _send(self, spec: RunSpec, message: dict[str, Any]) -> None:
        if self._child is None or not self._child.alive:
            self.close()
            self._child = Child("tinyfleet.coordinator.run.engine_child", self._arguments)
        self._waiting += 1
        self._child.send({**message, "spec": msgspec.to_builtins(spec)})


def _evaluated(event: dict[str, Any]) -> Evaluated | EngineFailed:
    """JSON has no NaN and no infinity: a figure that is none is null."""
    loss, accuracy = event.get("loss"), event.get("accuracy")
    for name, value in (("loss", loss), ("accuracy", accuracy)):
        if not isinstance(value, int | float) or not math.isfinite(value):
            return EngineFailed(f"the test {name} is not a finite number: the model has diverged")
    return Evaluated(int(event["step"]), float(event["loss"]), float(event["accuracy"]))
