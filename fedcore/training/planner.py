"""Does a task fit a board, and how? Exact levers first, lossy ones after (scaled activation pruning)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedcore.datasets.dataset import batch_count
from fedcore.methods.method import Control, Method
from fedcore.models.graph import Op
from fedcore.training.calibration import Calibration, Features, features_of

KEEPS = (0.5, 0.3, 0.2)  # lossy steps, from mild to hard
LEAST_NORM_BATCH = 4  # samples a pass that batch norm's statistics still mean something over
MARGIN = 1.05  # over the prediction: its error on a calibrated board


@dataclass(frozen=True, slots=True)
class Levers:
    """How a task is run."""

    micro_batch: int  # samples a pass; 0: the whole batch
    keep: float  # the most that a layer's cached input may keep; a method may ask for less

    @property
    def lossy(self) -> bool:
        """Whether the board, not the method, makes gradients approximate."""
        return self.keep < 1.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one way of running a task takes."""

    levers: Levers
    peak_bytes: int
    step_seconds: float


@dataclass(frozen=True, slots=True)
class FitPlan:
    """The first way that fits, or the smallest that there is and what it lacks."""

    forecast: Forecast
    limit_bytes: int
    round_seconds: float

    @property
    def fits(self) -> bool:
        return self.forecast.peak_bytes * MARGIN <= self.limit_bytes

    @property
    def missing_bytes(self) -> int:
        """What the limit would have to rise by."""
        return max(0, int(self.forecast.peak_bytes * MARGIN) - self.limit_bytes)


def plan(method: Method, calibration: Calibration, limit_bytes: int, samples: int) -> FitPlan:
    """The gentlest way to run ``method``'s training task under ``limit_bytes`` with so many local samples."""
    ways = [forecast(method, calibration, levers, samples) for levers in ladder(method)]
    chosen = next((way for way in ways if way.peak_bytes * MARGIN <= limit_bytes), None)
    chosen = chosen or min(ways, key=lambda way: way.peak_bytes)
    training = method.problem.training
    steps = training.local_epochs * batch_count(samples, training.batch)
    return FitPlan(chosen, limit_bytes, steps * chosen.step_seconds)


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
        yield Levers(micro_batch, 1.0)
    for keep in KEEPS:
        for micro_batch in sizes:
            yield Levers(micro_batch, keep)


def forecast(method: Method, calibration: Calibration, levers: Levers, samples: int) -> Forecast:
    """Peak of the whole training process, the device's own data included, and seconds of one step."""
    problem = method.problem
    features = step_features(method, levers)
    values = 1
    for size in problem.graph.input_shape:
        values *= size
    data = samples * (values + 8)  # uint8 images and their labels
    return Forecast(levers, int(calibration.peak_bytes(features)) + data, calibration.step_seconds(features))


def step_features(method: Method, levers: Levers) -> Features:
    """Features of one training step under ``levers``."""
    settings = method.step_settings(1.0, Control(micro_batch=levers.micro_batch, keep=levers.keep))
    problem, masked = method.problem, hasattr(method.settings, "density")
    return features_of(problem.graph, problem.training.batch, settings, masked=masked)
