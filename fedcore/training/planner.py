"""Does a task fit a board, and how? Exact levers first, lossy ones after (scaled activation pruning)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fedcore.datasets.dataset import batch_count
from fedcore.methods.method import Control, Method
from fedcore.models.graph import Op
from fedcore.training.calibration import Calibration, Features, features_of

KEEPS = (0.5, 0.3, 0.2)  # lossy steps, from mild to hard; what is kept is kept in half precision
LEAST_NORM_BATCH = 4  # samples a pass that batch norm's statistics still mean something over
MARGIN = 1.05  # over the prediction: its error on a calibrated board
LABEL_BYTES = 8


@dataclass(frozen=True, slots=True)
class Levers:
    """How a task is run."""

    micro_batch: int  # samples a pass; 0: the whole batch
    keep: float = 1.0  # the most that a layer's cached input may keep; a method may ask for less
    cache: Literal["fp32", "fp16"] = "fp32"  # in which precision

    @property
    def lossy(self) -> bool:
        """Whether the board, not the method, makes gradients approximate."""
        return self.keep < 1.0

    def apply(self, control: Control) -> None:
        """Impose them on a task; one that runs follows with its next step."""
        control.micro_batch, control.keep, control.cache = self.micro_batch, self.keep, self.cache

    def __str__(self) -> str:
        text = f"micro-batch {self.micro_batch or 'whole'}"
        return text + (f", {self.keep:.0%} of activations kept in {self.cache}" if self.lossy else "")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one way of running a task takes."""

    levers: Levers
    peak_bytes: int
    step_seconds: float


@dataclass(frozen=True, slots=True)
class FitPlan:
    """The first way that fits, or the smallest that there is and what it lacks."""

    ways: tuple[Forecast, ...]
    rung: int  # of the ladder
    limit_bytes: int
    steps: int  # of one round

    @property
    def forecast(self) -> Forecast:
        return self.ways[self.rung]

    @property
    def levers(self) -> Levers:
        return self.forecast.levers

    @property
    def round_seconds(self) -> float:
        return self.steps * self.forecast.step_seconds

    @property
    def fits(self) -> bool:
        return self.forecast.peak_bytes * MARGIN <= self.limit_bytes

    @property
    def missing_bytes(self) -> int:
        """What the limit would have to rise by."""
        return max(0, int(self.forecast.peak_bytes * MARGIN) - self.limit_bytes)


def plan(
    method: Method, calibration: Calibration, limit_bytes: int, samples: int, *, rung: int = 0, factor: float = 1.0
) -> FitPlan:
    """The gentlest way to run ``method``'s training task under ``limit_bytes`` with so many local samples.

    Ways before ``rung`` are known to be too much. ``factor``: measured by predicted peak of such tasks so far.
    """
    ways = tuple(forecast(method, calibration, levers, samples, factor) for levers in ladder(method))
    left = range(min(rung, len(ways) - 1), len(ways))
    chosen = next((index for index in left if ways[index].peak_bytes * MARGIN <= limit_bytes), None)
    if chosen is None:
        chosen = min(left, key=lambda index: ways[index].peak_bytes)
    training = method.problem.training
    return FitPlan(ways, chosen, limit_bytes, training.local_epochs * batch_count(samples, training.batch))


def tighter(ways: Sequence[Forecast], rung: int) -> int | None:
    """The next rung that takes less memory than ``rung``; None where it is the last."""
    less = (index for index in range(rung + 1, len(ways)) if ways[index].peak_bytes < ways[rung].peak_bytes)
    return next(less, None)


def ladder(method: Method) -> Iterator[Levers]:
    """Ways to run a step, gentlest first: smaller passes with summed gradients, then pruned caches as well.

    Batch norm sees its statistics pass by pass: with it passes do not shrink below ``LEAST_NORM_BATCH``.
    """
    batch = method.problem.training.batch
    normed = any(node.op is Op.BATCH_NORM for node in method.problem.graph.nodes)
    least = min(batch, LEAST_NORM_BATCH if normed else 1)
    sizes = [0]
    size = batch // 2
    while size >= least:
        sizes.append(size)
        size //= 2
    for micro_batch in sizes:
        yield Levers(micro_batch)
    for keep in KEEPS:
        for micro_batch in sizes:
            yield Levers(micro_batch, keep, "fp16")


def forecast(
    method: Method, calibration: Calibration, levers: Levers, samples: int, factor: float = 1.0
) -> Forecast:
    """Peak of the whole training process, the device's own data included, and seconds of one step."""
    features = step_features(method, levers)
    data = samples * (math.prod(method.problem.graph.input_shape) + LABEL_BYTES)  # images are uint8
    peak = (calibration.peak_bytes(features) + data) * factor
    return Forecast(levers, int(peak), calibration.step_seconds(features))


def step_features(method: Method, levers: Levers) -> Features:
    """Features of one training step under ``levers``."""
    control = Control()
    levers.apply(control)
    problem, masked = method.problem, hasattr(method.settings, "density")
    return features_of(problem.graph, problem.training.batch, method.step_settings(1.0, control), masked=masked)
