"""The coordinator's side of its engine process: the only place where an engine works for it."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec

from tinyfleet.coordinator.run.engine_watch import EngineWatch
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_FIGURES = {"test": ("loss", "accuracy"), "validation": ("validation_loss", "validation_accuracy")}


@dataclass(frozen=True, slots=True)
class Prepared:
    """The initial state lies at ``path`` (codec, fp32)."""

    path: Path


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Loss and accuracy of the state after ``step`` on held-out test data, where there is some."""

    step: int
    loss: float | None
    accuracy: float | None
    validation: tuple[float, float] | None = None  # the same on validation data, where that was asked for


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The work could not be done."""

    reason: str


EngineAnswer: TypeAlias = Prepared | Evaluated | EngineFailed


class EngineRequests(Protocol):
    """What the service asks of an engine. Nothing here blocks; answers come through ``poll``, in order."""

    def prepare(self, spec: RunSpec, target: Path) -> None:
        """Compute the run's initial state into ``target``."""

    def evaluate(self, spec: RunSpec, step: int, state: Path, *, validate: bool = False) -> None:
        """Measure the state after ``step`` on the run's test data, and its validation data where that is asked."""

    def poll(self) -> EngineAnswer | None:
        """The next answer, if one is there."""

    def close(self) -> None:
        """The run has ended: give all memory back."""


class EngineProcess:
    """Runs ``engine_child``: started when first needed, warm for the run, gone after it.

    One that dies is started again, after a pause that doubles, and does what it had not answered; after
    ``restarts`` of them in a row, what it died of is given up, and the rest is tried. One that has work to do and
    takes no processor time for ``hung_s`` seconds is killed.
    """

    def __init__(
        self,
        *,
        engine: str = "auto",
        threads: int = 1,
        nice: int = 5,
        restarts: int = 5,
        hung_s: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._arguments = ["--engine", engine, "--threads", str(threads), "--nice", str(nice)]
        self._restarts = restarts
        self._clock = clock
        self._hung_s = hung_s
        self._watch = EngineWatch(hung_s, clock)
        self._killed_as_hung = False
        self._child: Child | None = None
        self._unanswered: deque[dict[str, Any]] = deque()
        self._deaths = 0  # since its last answer
        self._start_at: float | None = None  # when it is started again

    def prepare(self, spec: RunSpec, target: Path) -> None:
        """Compute the run's initial state into ``target``."""
        self._send(spec, {"command": "prepare", "target": str(target)})

    def evaluate(self, spec: RunSpec, step: int, state: Path, *, validate: bool = False) -> None:
        """Measure the state after ``step`` on the run's test data, and its validation data where that is asked."""
        self._send(spec, {"command": "evaluate", "step": step, "state": str(state), "validate": validate})

    def poll(self) -> EngineAnswer | None:
        """The next answer, if one is there."""
        if self._start_at is not None and self._clock() >= self._start_at:
            self._start()
        while self._child is not None and (event := self._child.receive()) is not None:
            if event.get("event") == "exit":
                self._child.kill()  # it is dead: this closes its input
                self._child = None
                return self._died(self._how_it_ended(event["code"], event.get("said", "")))
            if self._unanswered and (answer := _answer_of(event)) is not None:
                self._unanswered.popleft()
                self._deaths = 0
                return answer
        self._end_if_hung()
        return None

    def close(self) -> None:
        """End the process; what it was doing is dropped."""
        child, self._child = self._child, None
        self._unanswered.clear()
        self._deaths, self._start_at = 0, None
        if child is not None:
            child.process.terminate()
            child.process.send_signal(signal.SIGCONT)  # one that is stopped heeds no other
            child.stop(grace_s=2.0)

    def _send(self, spec: RunSpec, command: dict[str, Any]) -> None:
        message = {**command, "spec": msgspec.to_builtins(spec)}
        self._unanswered.append(message)
        if self._child is not None:
            self._child.send(message)  # to one that has just died in vain: it is said again to the next
        elif self._start_at is None:
            self._start()

    def _start(self) -> None:
        """A process, and all that is unanswered; where there can be none now, try again later."""
        self._start_at, self._killed_as_hung = None, False
        try:
            arguments = [*self._arguments, "--parent", str(os.getpid())]
            self._child = Child("tinyfleet.coordinator.run.engine_child", arguments, heard=True)
        except OSError as error:
            log.warning("the engine process cannot be started: %s", error)
            self._start_at = self._clock() + _LONGEST_PAUSE_S
            return
        for message in self._unanswered:
            self._child.send(message)

    def _end_if_hung(self) -> None:
        """Kill one that does nothing; its end is an event like any other's."""
        if self._child is None or not self._unanswered:
            self._watch.rest()
        elif not self._killed_as_hung and self._watch.is_hung(self._child.pid):
            self._killed_as_hung = True
            self._child.process.kill()  # without waiting: one that the kernel holds ends when that lets it go

    def _how_it_ended(self, code: int, said: str) -> str:
        """In words: its signal or code, and the last line of its stderr."""
        if self._killed_as_hung:
            return f"was killed, for it had used no processor time for {self._hung_s:g} s, with work to do"
        names = {number.value: number.name for number in signal.Signals}
        how = f"was ended by {names.get(-code, f'signal {-code}')}" if code < 0 else f"exited with code {code}"
        return f"{how}, its last line {said!r}" if said else how

    def _died(self, how: str) -> EngineFailed | None:
        """Start it again where it is needed, soon: the first that it did not answer may be why."""
        if not self._unanswered:
            return None
        self._deaths += 1
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** min(self._deaths - 1, 10), _LONGEST_PAUSE_S)
        if self._deaths <= self._restarts:
            log.warning("the engine process %s; it is started again in %g s", how, pause_s)
            self._start_at = self._clock() + pause_s
            return None
        deaths, self._deaths = self._deaths, 0
        self._unanswered.popleft()
        if self._unanswered:
            self._start_at = self._clock() + pause_s
        return EngineFailed(f"the engine process {how}" + (f" ({deaths} times in a row)" if deaths > 1 else ""))


def _answer_of(event: dict[str, Any]) -> EngineAnswer | None:
    """None for what is no answer; one without its numbers is a failure."""
    try:
        match event.get("event"):
            case "prepared":
                return Prepared(Path(event["path"]))
            case "evaluated":
                return _evaluated(event)
            case "failed":
                return EngineFailed(str(event["reason"]))
    except (KeyError, TypeError, ValueError) as error:
        return EngineFailed(f"the engine process gave no usable answer ({error!r}): {event!r:.200}")
    return None


def _evaluated(event: dict[str, Any]) -> Evaluated | EngineFailed:
    """JSON has no NaN and no infinity: a figure that is none is null. What was not measured is not there."""
    found: dict[str, tuple[float, float]] = {}
    for data, (loss, accuracy) in _FIGURES.items():
        if data == "validation" and loss not in event:
            continue  # it was not asked for
        if data == "test" and event.get("untested") is True:
            continue  # there is no such data
        for name in (loss, accuracy):
            value = event.get(name)
            if not isinstance(value, int | float) or not math.isfinite(value):
                return EngineFailed(f"the {data} {name} is not a finite number: the model has diverged")
        found[data] = float(event[loss]), float(event[accuracy])
    test_loss, test_accuracy = found.get("test", (None, None))
    return Evaluated(int(event["step"]), test_loss, test_accuracy, found.get("validation"))
