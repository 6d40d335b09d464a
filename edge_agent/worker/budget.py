"""Decides how a task may be run: policy, threads, memory; and learns from what tasks then took.

Which levers fit under the limit is planned in the worker (``task_control.py``), which knows the model: here is
only what must survive it. What is learned is on disk before it is acted on, so that a restart does not
repeat a failure.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tinyfleet.edge_agent.config import Policy
from tinyfleet.edge_agent.worker.commands import Chosen
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.run_spec import Count, RunSpec
from tinyfleet.fedcore.training.registry import expected

logger = logging.getLogger(__name__)

# Of the memory usable at start, when the configuration leaves the limit to the board.
DEFAULT_SHARE = 0.75
# Of the limit: what a plan may fill, and beyond which a running task is tightened.
SOFT_SHARE = 0.92
# Of what is usable when a task comes: the rest is left to whatever else grows meanwhile.
LIVE_SHARE = 0.95
# A task that met its limit took at least this much more than the prediction that let it in.
_BEYOND = 1.02
# The prediction is corrected where a task took so much more or less of it than its kind did before.
_NOTED = 0.02


class Stage(StrEnum):
    """How far a worker came before it met its limit."""

    LOADING = "loading"  # engine, data, model: no lever makes these smaller
    TRAINING = "training"


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """Under what one task is to be run. ``refusal`` is empty, or says why the task is not to be started."""

    threads: int
    policy: Literal["fresh", "warm"]
    memory_limit_bytes: int  # of the worker process; 0: none
    target_bytes: int = 0  # what the worker's plan may fill; 0: no bound
    first_way: int = 0  # of that plan: ways before it are known to be too much
    factor: float = 1.0  # measured by predicted peak of such tasks so far
    refusal: str = ""


class Experience(msgspec.Struct, frozen=True):
    """What is known of one kind of task."""

    first_way: Count = 0  # that is not known to be too much
    impossible: bool = False
    failures: Count = 0
    factor: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0


class Governor:
    """Decides under ``memory_limit_bytes`` (0: ``DEFAULT_SHARE`` of what is usable at start).

    ``usable`` reads what can be taken on the board now.
    """

    def __init__(
        self,
        path: Path,
        *,
        memory_limit_bytes: int,
        usable: Callable[[], int],
        threads: int,
        policy: Policy,
        engine: str,
    ) -> None:
        self._path = path
        self._threads = threads
        self._engine = engine
        self._usable = usable
        usable_bytes = usable()
        self.memory_limit_bytes = memory_limit_bytes or int(usable_bytes * DEFAULT_SHARE)
        self.policy: Literal["fresh", "warm"] = (
            _choose_policy(self.memory_limit_bytes, usable_bytes, engine) if policy == "auto" else policy
        )
        self._history = self._read()

    def limits(self, spec: RunSpec, held_bytes: int = 0) -> TaskLimits:
        """Under what to run a task of ``spec``, by what was learned of its kind and what is free now.

        ``held_bytes`` are those of a warm worker: they count as free.
        """
        known = self._known(spec)
        refusal = ""
        if known.impossible:
            refusal = (
                f"does not fit into {self.memory_limit_bytes} bytes whichever way it is run "
                f"({known.failures} tries); raise limits.memory_limit or choose a smaller model"
            )
        limit = self.memory_limit_bytes
        target = min(int(SOFT_SHARE * limit), int(LIVE_SHARE * (self._usable() + held_bytes))) if limit else 0
        return TaskLimits(self._threads, self.policy, limit, target, known.first_way, known.factor, refusal)

    def over_budget(self, spec: RunSpec, limits: TaskLimits, chosen: Chosen, stage: Stage) -> TaskLimits:
        """Learn that ``chosen`` was too much; returns the next limits. On disk before it returns."""
        known = self._known(spec)
        factor = known.factor
        # How much a heap that keeps what is freed comes to says little of what is needed.
        if chosen.peak_bytes and not chosen.way.roomy:
            factor = max(factor, _BEYOND * limits.memory_limit_bytes * limits.factor / chosen.peak_bytes)
        impossible = stage is Stage.LOADING or chosen.index + 1 >= chosen.ways
        first_way = chosen.index if impossible else chosen.index + 1
        self._learn(spec, Experience(first_way, impossible, known.failures + 1, factor))
        return self.limits(spec)

    def refused(self, spec: RunSpec, limits: TaskLimits) -> None:
        """Learn that no way fits, unless only the moment's lack of memory made it so."""
        if limits.target_bytes == int(SOFT_SHARE * limits.memory_limit_bytes):
            known = self._known(spec)
            self._learn(spec, msgspec.structs.replace(known, impossible=True, failures=known.failures + 1))

    def tightened(self, spec: RunSpec, index: int) -> None:
        """Learn that a task had to be tightened to this way while it ran: the next one begins there."""
        known = self._known(spec)
        if index > known.first_way:
            self._learn(spec, msgspec.structs.replace(known, first_way=index))

    def finished(self, spec: RunSpec, limits: TaskLimits, chosen: Chosen, peak_rss_bytes: int) -> None:
        """Learn what a task took of what was predicted."""
        if chosen.way.roomy or not chosen.peak_bytes or not peak_rss_bytes:
            return
        known = self._known(spec)
        factor = limits.factor * peak_rss_bytes / chosen.peak_bytes
        if abs(factor / known.factor - 1.0) > _NOTED:
            self._learn(spec, msgspec.structs.replace(known, factor=factor))

    def _known(self, spec: RunSpec) -> Experience:
        return self._history.get(self._kind(spec), Experience())

    def _learn(self, spec: RunSpec, experience: Experience) -> None:
        self._history[self._kind(spec)] = experience
        try:
            write_atomic(self._path, msgspec.json.format(msgspec.json.encode(self._history), indent=1))
        except OSError as error:
            logger.warning(
                "%s cannot be written: %s; what tasks take is known until the next start", self._path, error
            )

    def _kind(self, spec: RunSpec) -> str:
        """Tasks that cost about the same memory: another limit or engine starts afresh."""
        density = spec.method.get("density", 1.0)
        known = isinstance(density, int | float) and 0 < density <= 1
        density_class = round(math.log2(density)) if known else 0
        shape = "x".join(map(str, spec.model.input_shape))
        arguments = ",".join(f"{name}={value}" for name, value in sorted(spec.model.arguments.items()))
        if spec.model.graph:  # its name says nothing of it
            arguments = hashlib.sha256(json.dumps(spec.model.graph, sort_keys=True).encode()).hexdigest()[:16]
        return (
            f"{spec.method.get('name')}/{spec.model.name}({arguments})/{shape}/density 2^{density_class}/"
            f"batch {spec.training.batch}/{self._engine}/{self.memory_limit_bytes}"
        )

    def _read(self) -> dict[str, Experience]:
        try:
            return read_document(read_file(self._path), dict[str, Experience])
        except FileNotFoundError:
            return {}
        except (OSError, CodecError) as error:
            logger.warning("%s is not a history (%s); starting without one", self._path, error)
            return {}


def _choose_policy(limit_bytes: int, usable_bytes: int, engine: str) -> Literal["fresh", "warm"]:
    """Warm where what an idle worker holds is at most a third of what the board has to spare."""
    held = expected(engine).warm_bytes  # only looked for, since this process is to stay small
    return "warm" if usable_bytes >= 3 * min(limit_bytes, held) else "fresh"
