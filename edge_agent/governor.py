"""Decides how a task is run: micro-batch, threads, policy, memory limit; and learns from each failure.

What is learned is on disk before it is acted on, so that a restart does not repeat a failure. A
memory model can later replace ``Governor.plan``; everything around it only sees ``Plan``.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec

from edge_agent.config import Policy
from fedcore.files import write_atomic
from fedcore.run_spec import RunSpec

logger = logging.getLogger(__name__)

# A warm worker between tasks holds the engine: torch's CPU build, measured 190 to 250 MB.
WARM_WORKER_BYTES = 250_000_000
# Of the memory usable at start, when the configuration leaves the limit to the board.
DEFAULT_SHARE = 0.75


class Stage(StrEnum):
    """How far a worker came before it met its limit."""

    LOADING = "loading"  # engine, data, model: no micro-batch makes these smaller
    TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one task is to be run. ``refusal`` is empty, or says why the task is not to be started."""

    micro_batch: int  # samples a forward pass; 0: the whole batch at once
    threads: int
    policy: Literal["fresh", "warm"]
    memory_limit_bytes: int  # of the worker process; 0: none
    refusal: str = ""


class Experience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one kind of task: the micro-batch to start with, and whether nothing fits."""

    micro_batch: int = 0
    impossible: bool = False
    failures: int = 0


class Governor:
    """Plans tasks under ``memory_limit_bytes`` (0: ``DEFAULT_SHARE`` of ``usable_bytes``)."""

    def __init__(
        self, path: Path, *, memory_limit_bytes: int, usable_bytes: int, threads: int, policy: Policy, engine: str
    ) -> None:
        self._path = path
        self._threads = threads
        self._engine = engine
        self.memory_limit_bytes = memory_limit_bytes or int(usable_bytes * DEFAULT_SHARE)
        self.policy: Literal["fresh", "warm"] = (
            _choose_policy(self.memory_limit_bytes, usable_bytes) if policy == "auto" else policy
        )
        self._history = self._read()

    def plan(self, spec: RunSpec) -> Plan:
        """How to run a task of ``spec``, by what was learned of its kind."""
        known = self._history.get(self._kind(spec), Experience())
        refusal = ""
        if known.impossible:
            refusal = (
                f"does not fit into {self.memory_limit_bytes} bytes even one sample at a time "
                f"({known.failures} tries); raise limits.memory_limit or choose a smaller model"
            )
        return Plan(known.micro_batch, self._threads, self.policy, self.memory_limit_bytes, refusal)

    def over_budget(self, spec: RunSpec, plan: Plan, stage: Stage) -> Plan:
        """Learn that ``plan`` was too much; returns the next plan. On disk before it returns."""
        known = self._history.get(self._kind(spec), Experience())
        batch = plan.micro_batch or spec.training.batch
        if stage is Stage.LOADING or batch == 1:
            learned = Experience(plan.micro_batch, True, known.failures + 1)
        else:
            learned = Experience(batch // 2, False, known.failures + 1)
        self._history[self._kind(spec)] = learned
        write_atomic(self._path, msgspec.json.format(msgspec.json.encode(self._history), indent=1))
        return self.plan(spec)

    def _kind(self, spec: RunSpec) -> str:
        """Tasks that cost about the same memory: another limit or engine starts afresh."""
        density = spec.method.get("density", 1.0)
        known = isinstance(density, int | float) and 0 < density <= 1
        density_class = round(math.log2(density)) if known else 0
        shape = "x".join(map(str, spec.model.input_shape))
        return (
            f"{spec.method.get('name')}/{spec.model.name}/{shape}/density 2^{density_class}/"
            f"batch {spec.training.batch}/{self._engine}/{self.memory_limit_bytes}"
        )

    def _read(self) -> dict[str, Experience]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Experience])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            logger.warning("%s is not a history (%s); starting without one", self._path, error)
            return {}


def _choose_policy(limit_bytes: int, usable_bytes: int) -> Literal["fresh", "warm"]:
    """Warm where what an idle worker holds is at most a third of what the board has to spare."""
    return "warm" if usable_bytes >= 3 * min(limit_bytes, WARM_WORKER_BYTES) else "fresh"
