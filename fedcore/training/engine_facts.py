"""What is to be known of an engine before it is there: one record an engine, cheap to read.

Nothing here loads an engine, or numpy: the agent's supervisor decides by these facts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyfleet.fedcore.training.engine import Engine

NO_KERNEL_CHOICE: Mapping[str, float] = {}
"""Nothing known of the board's kernels."""

# The dynamic loader's words where a library does not fit into the memory that is left.
NO_ROOM = ("failed to map segment", "cannot map zero-fill pages", "annot allocate memory")


class MemoryModel(StrEnum):
    """How what a step takes is foretold."""

    REPLAYED = "replayed"  # tensor by tensor on the model's graph, as a framework allocates and frees them
    ARENA = "arena"  # the engine plans its own memory, and says what it comes to


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """One engine. Bytes are measured; where no number is given, it cannot be foretold."""

    name: str  # in configurations, cost models and results
    install: str  # how to get it, for whoever lacks it
    looks_installed: Callable[[], bool]  # told without loading anything of it
    # Why it cannot be used here, to go on after its name; empty where it can. Loads it only where that is cheap:
    # raises ``MemoryError`` where there is no room.
    fault: Callable[[], str]
    # With so many threads; the mapping is the board's ``kernel_choice``, for engines that have one. Raises
    # ``ConfigError`` where its device is missing.
    create: Callable[[int, Mapping[str, float]], Engine]
    memory_model: MemoryModel
    cost_model: str  # which shipped one holds for it
    warm_bytes: int  # what a worker holds between tasks
    loading_bytes: int | None  # pages of its libraries that a task's loading brings in
    first_step_bytes: int | None  # the same of the first step of training
    rated_by: str  # the library by whose convolutions a board's speed for it is told, as the board's profile has it
    device: str = "cpu"
    automatic: bool = True  # "auto" may mean it
    saves_by_sparsity: bool = False  # time and memory follow the weights that are left
    recomputes: bool = False  # can compute activations again: ``Levers.recompute``
    chooses_kernels: bool = False  # dense or sparse ones, layer by layer, by a board's ``kernel_choice``
