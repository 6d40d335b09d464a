"""Training loops that methods share: local epochs on a device, pre-training at the coordinator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Params
from tinyfleet.fedcore.datasets.augmentation.augment import augmented
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Normalization, batch_count, batches
from tinyfleet.fedcore.errors import DataError, ResultError
from tinyfleet.fedcore.methods.method import Control, Problem
from tinyfleet.fedcore.run_spec import TrainingSettings
from tinyfleet.fedcore.training.engine import Engine, StepSettings


class LocalResult(NamedTuple):
    """What local training leaves: its mean loss, and the last mini-batch for growth gradients."""

    samples: int
    loss: float
    last_batch: tuple[FloatArray, IntArray]


class Progress:
    """Counts steps and losses, reports them, and stops training that has diverged."""

    def __init__(self, steps: int, control: Control) -> None:
        self.step = 0
        self._steps, self._control = steps, control
        self._sum, self._seen = 0.0, 0

    def add(self, loss: float, samples: int, learning_rate: float) -> None:
        """One step's mean loss. Raises ``ResultError`` where it is not finite."""
        if not np.isfinite(loss):
            raise ResultError(f"training diverged (loss {loss}) at learning rate {learning_rate:g}; lower it")
        self.step += 1
        self._sum, self._seen = self._sum + loss * samples, self._seen + samples
        self._control.progress(self.step, self._steps, loss)

    @property
    def mean_loss(self) -> float:
        return self._sum / self._seen


def part_of(steps: int, control: Control) -> int:
    """How many of so many steps a task takes under ``control``."""
    return min(steps, control.steps) if control.steps else steps


def all_samples(data: DeviceData) -> Dataset:
    """Everything the device has: the development set only ever selects a mask, before training starts."""
    x = np.concatenate([data.train.x, data.development.x])
    y = np.concatenate([data.train.y, data.development.y])
    return Dataset(x, y, data.train.classes)


class LocalRound(NamedTuple):
    """What a device trains with in one round: the engine has the model loaded."""

    engine: Engine
    data: Dataset
    training: TrainingSettings
    normalization: Normalization
    settings: StepSettings
    rng: np.random.Generator
    control: Control

    @property
    def whole(self) -> int:
        """SGD steps of E local epochs."""
        return self.training.local_epochs * batch_count(len(self.data), self.training.batch)

    @property
    def steps(self) -> int:
        """The steps of this round: a device with too little time is given fewer."""
        return part_of(self.whole, self.control)

    def step(self, x: FloatArray, y: IntArray, settings: StepSettings) -> float:
        """One step, under what the board imposes by now; returns its loss."""
        return self.engine.train_step(x, y, self.control.tightened(settings))

    def result(self, progress: Progress, last_batch: tuple[FloatArray, IntArray]) -> LocalResult:
        """A part of a round weighs as the part of the samples that it saw."""
        samples = max(1, len(self.data) * min(progress.step, self.whole) // self.whole)
        return LocalResult(samples, progress.mean_loss, last_batch)

    def batches(self, steps: int) -> Iterator[tuple[FloatArray, IntArray]]:
        """So many mini-batches, unless the board has enough: all of the data, in a new order, again and again."""
        size = self.training.batch
        passes = range(math.ceil(steps / batch_count(len(self.data), size)))
        epochs = (batches(self.data, size, self.normalization, self.rng) for _ in passes)
        for index, batch in enumerate(islice(chain.from_iterable(epochs), steps)):
            if index and self.control.enough:
                return
            x, y = batch
            yield augmented(self.training.augment, x, self.rng), y


def train_locally(local: LocalRound) -> LocalResult:
    """Run E local epochs of SGD on the loaded model, or the part of them that the device is given.

    Raises ``ResultError`` where the loss is no longer finite.
    """
    progress = Progress(local.steps, local.control)
    for x, y in local.batches(local.steps):
        progress.add(local.step(x, y, local.settings), len(y), local.settings.learning_rate)
    return local.result(progress, (x, y))


def pretrain(engine: Engine, public: Dataset, problem: Problem, normalization: Normalization) -> Params:
    """Train the dense model briefly on public data, at the coordinator (FedTiny, section 3.2).

    The learning rate falls linearly to zero, so that brief training ends settled.
    Raises ``DataError`` without public data.
    """
    if not len(public):
        raise DataError("there is no public data to pre-train on; raise data.public_fraction (0.1, say)")
    training = problem.training
    rng = np.random.default_rng([problem.seed, 1])
    engine.load(problem.graph, problem.first_params(), {})
    total = training.pretrain_epochs * batch_count(len(public), training.batch)
    step = 0
    for _ in range(training.pretrain_epochs):
        for x, y in batches(public, training.batch, normalization, rng):
            rate = training.pretrain_learning_rate * max(1e-3, 1.0 - step / total)
            engine.train_step(x, y, StepSettings(rate, training.momentum, training.weight_decay))
            step += 1
    return engine.params()
