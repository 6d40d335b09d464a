"""The method seam: what a federated pruning method computes on either side, pure of I/O."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.datasets.augmentation.augment import check_augmentation
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Normalization
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.methods.server.optimisers import optimised
from tinyfleet.fedcore.methods.summing.summands import SumStage
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.run_spec import Settings, TrainingSettings
from tinyfleet.fedcore.training.engine import Engine, StepSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers


@dataclass(frozen=True, slots=True)
class Problem:
    """What a run is about; equal on the coordinator and on every device."""

    graph: Graph
    training: TrainingSettings
    seed: int
    wire_precision: str = "fp16"
    started: bool = False  # from numbers that are given
    start: Params = field(default_factory=dict)  # those, where an initial state is made: devices have none

    def first_params(self) -> Params:
        """The numbers before any training, a copy. Raises ``ConfigError`` where they are given, and not here."""
        if not self.started:
            return self.graph.initial_params(self.seed)
        if not self.start:
            raise ConfigError("this run starts from numbers that are given, and they are not here; submit it again")
        return {name: values.copy() for name, values in self.start.items()}


class DeviceMemory(Protocol):
    """What a device remembers of a run between its tasks, for methods with personal state."""

    def read(self, step: int) -> Payload | None:
        """What was last written before ``step``: a repeated task sees what its first try saw."""

    def write(self, step: int, payload: Payload) -> None:
        """Remember ``payload`` as of ``step``."""


class Forgetful:
    """Remembers nothing: for methods without personal state."""

    def read(self, step: int) -> Payload | None:
        return None

    def write(self, step: int, payload: Payload) -> None:
        return None


@dataclass(slots=True)
class Control:
    """What the board imposes on a task, what the device remembers, and how the task reports.

    ``levers`` may be replaced by tighter ones while the task runs: the next step follows them. ``enough`` ends a
    training task after its present step: what is done by then is its result.
    """

    levers: Levers = NO_LEVERS  # a method's own steps may keep less
    steps: int = 0  # optimiser steps of a training task at most; 0: all of the local epochs
    enough: bool = False
    memory: DeviceMemory = field(default_factory=Forgetful)
    entropy: Callable[[int], bytes] = os.urandom  # so many bytes for secrets: never of a seed
    progress: Callable[[int, int, float], None] = field(default=lambda step, steps, loss: None)

    def tightened(self, settings: StepSettings) -> StepSettings:
        """``settings`` under what the board imposes now."""
        levers = settings.levers.under(self.levers)
        return settings if levers == settings.levers else replace(settings, levers=levers)


class Fold(Protocol):
    """A round's aggregate so far: constant memory, exact in any order of arrival."""

    @property
    def devices(self) -> int: ...


def device_seed(seed: int, task: Payload, device: str) -> np.random.Generator:
    """Random generator of one device's task: the same live and simulated, whoever runs it when."""
    key = f"{seed}/{task.meta['step']}/{device}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))


CARRIED = ("step", "stage", "round", "normalization")
"""What the meta of every state and task has."""


class Method(ABC):
    """One federated method: coordinator half and device half.

    A run is a sequence of *steps*; each hands one task to the cohort and folds the results. States,
    tasks and results are payloads. Every state's ``meta`` has ``step`` (int, rises by one each
    ``finish_round``), ``stage`` (str), ``round`` (int: training rounds finished) and
    ``normalization`` ({"mean", "std", "scale"}); every task's has the same four; every result's has
    ``step``, ``samples`` (int), and ``loss`` / ``accuracy`` where the stage has them. All else in
    ``meta`` is the method's own.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    upload_precision: ClassVar[Literal["fp32", "fp16", "int8"] | None] = None  # of results; None: the run's
    own_masks: ClassVar[bool] = False  # every device trains under a mask of its own

    def __init__(self, settings: Any, problem: Problem) -> None:
        """Raises ``ConfigError`` where the run's training does not suit the method."""
        if self.own_masks and problem.training.proximal:
            raise ConfigError(
                f"training.proximal {problem.training.proximal:g} draws devices to the weights of their task, and "
                f"with method {self.name} each prunes and grows its own on the way; set it to 0, or use static"
            )
        check_augmentation(problem.training.augment, problem.graph.input_shape)
        self.settings = settings
        self.problem = problem

    # -- coordinator half ---------------------------------------------------------------

    @abstractmethod
    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """The state before the first step. May train on ``public``; the only place that needs an engine."""

    @abstractmethod
    def configure_round(self, state: Payload) -> Payload:
        """The task of the coming step: the same for every device of the cohort."""

    @abstractmethod
    def begin_fold(self, state: Payload) -> Fold:
        """An empty aggregate for the current step."""

    @abstractmethod
    def fold(self, fold: Fold, result: Payload) -> None:
        """Add one device's result. Raises ``ResultError``, leaving ``fold`` unchanged, where it does not fit."""

    def late(self, task: Payload, result: Payload) -> Payload:
        """What of a result of an earlier step counts in the present one, whose ``task`` this is.

        Its weights, under the task's mask: one that has grown since starts at zero, as it did in the state.
        Gradients and all other evidence are of another mask, and are left. Raises ``ResultError`` where it has
        no weights: it is of another stage.
        """
        if self.own_masks:
            return result
        names = self.problem.graph.params
        if not result.params.keys() >= names.keys():
            raise ResultError("it is late, and of a stage without weights: nothing of it counts in this step")
        params = {name: result.params[name].copy() for name in names}
        for name, active in task.mask.items():
            if params[name].shape == active.shape:  # else the fold refuses it
                params[name][~active] = 0.0
        return Payload(result.meta, params, task.mask)

    @abstractmethod
    def finish_round(self, state: Payload, fold: Fold) -> Payload:
        """The state after the step; ``meta["metrics"]`` holds the step's weighted means (loss, accuracy, ...)."""

    def next_state(self, state: Payload, fold: Fold) -> Payload:
        """The state after the step, as ``finish_round`` has it and the server's optimiser takes it."""
        after = self.finish_round(state, fold)
        return optimised(self.problem.training.server, self.problem.graph, state, after)

    def sum_stage(self, task: Payload) -> SumStage:
        """The sums that ``begin_fold`` and ``fold`` make of the task's results: for secure aggregation.

        Whoever overrides one of those two overrides this too. Raises ``ConfigError`` where devices' results enter
        by more than sums.
        """
        raise ConfigError(f"method {self.name} does not say which sums its devices' results enter")

    def measurable(self, stage: str) -> bool:
        """True where a state before a step of ``stage`` is a model: selection stages have none to evaluate."""
        return stage == "train"

    def members(self, state: Payload) -> tuple[str, ...] | None:
        """The only devices that the coming step is for, all of them, there or not; None: whoever is chosen."""
        return None

    def addressed(self, state: Payload, device: str) -> dict[str, bytes]:
        """What of the coming step's task is for one device alone: ``raw`` of its payload; mostly nothing."""
        return {}

    def finished(self, state: Payload) -> bool:
        """True once all training rounds are done."""
        done = state.meta["round"]
        return isinstance(done, int) and done >= self.problem.training.rounds

    def deployed(self, state: Payload) -> Payload:
        """The model to evaluate and to export: the state's own, unless the method trains something else."""
        return state

    def needs_public_data(self) -> str:
        """What it does with public data, and how it would do without; empty: nothing but measuring inputs."""
        return ""

    def more_than_updates(self) -> str:
        """What its results tell besides updates that are averaged, and the remedy; empty: nothing.

        Differential privacy bounds updates alone, and refuses what tells more.
        """
        return "its class does not say that they are updates and nothing more; override more_than_updates"

    # -- what a task costs a device ------------------------------------------------------

    @abstractmethod
    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        """Analytic cost of one task to a device with so many samples, the development set counted in."""

    def needs_engine(self, task: Payload) -> bool:
        """False for a task that trains and evaluates nothing: ``run`` is then given no engine."""
        return True

    def step_settings(self, learning_rate: float, control: Control) -> StepSettings:
        """Settings of the optimiser's steps: the run's, tightened by the board's."""
        training = self.problem.training
        settings = StepSettings(
            learning_rate,
            training.momentum,
            training.weight_decay,
            levers=Levers(activation_keep=training.activation_keep, cache=training.activation_precision),
            pruned_norm=training.activation_norms,
            optimiser=training.optimiser,
            second=training.adam_second,
            epsilon=training.adam_epsilon,
            clip=training.clip_gradient,
            proximal=training.proximal,
        )
        return control.tightened(settings)

    # -- device half --------------------------------------------------------------------

    @abstractmethod
    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        """Do one task on one device. Pure: the random generator comes from ``device_seed``."""


def normalization_of(payload: Payload) -> Normalization:
    """The input normalisation that a state or task carries."""
    entry: Any = payload.meta["normalization"]
    return Normalization(tuple(entry["mean"]), tuple(entry["std"]), float(entry["scale"]))


def normalization_entry(normalization: Normalization) -> dict[str, Json]:
    """The same as JSON."""
    return {
        "mean": list(normalization.mean),
        "std": list(normalization.std),
        "scale": normalization.scale,
    }
