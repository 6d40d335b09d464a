"""One result by itself: whether it may be an answer to its task at all, and the numbers that cohorts compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples, finite
from tinyfleet.fedcore.methods.parts.reconfiguration import SCALES
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.models.params import STATISTICS, Role
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.sparsity.mask import mask_digest

Key: TypeAlias = tuple[int, str]
"""(step that the result was computed for, device)."""

LOSSES = "losses"  # in a result's meta: one a candidate, of methods that select a mask by them
# Numbers in a result's meta whose means a step reports: a loss from 0 up, shares from 0 to 1.
NUMBERS = ("loss", "accuracy", "density")
# Of the task's own norm: where all hardly move, some batch makes one of them move ten times as far.
FLOOR = 0.01


@dataclass(frozen=True, slots=True)
class Measured:
    """What is kept of a result until its step closes: a few numbers, and the arrays that batch norm counts."""

    samples: int
    moves: Mapping[str, float]  # array -> Euclidean norm of what training changed in it
    floors: Mapping[str, float]  # array -> the move that counts as none: ``FLOOR`` of the task's own norm
    evidence: Mapping[str, float]  # layer -> norm of its growth gradients, or of its squared gradients
    means: Params
    variances: Params
    losses: tuple[float, ...]
    numbers: Mapping[str, float] = field(default_factory=dict)  # those of ``NUMBERS`` that it has
    rewound_norm: float = 0.0  # a move that its method always allows: back to an earlier model

    @property
    def norm(self) -> float:
        """Of the whole update."""
        return math.hypot(*self.moves.values())

    @property
    def floor(self) -> float:
        return math.hypot(*self.floors.values())


def measure(method: Method, task: Payload, result: Payload, enrolled: int = 0) -> Measured:
    """Check ``result`` by itself and measure it against ``task``.

    ``enrolled`` is the number of samples that the device enrolled with; 0: not known. Raises ``ResultError``
    for values that are not finite, another mask than the task's, variances below zero, more samples than
    enrolled, and numbers that cannot be losses or shares.
    """
    samples = checked_samples(result)
    if enrolled and samples > enrolled:
        raise ResultError(f"samples is {samples}, and the device enrolled with {enrolled}")
    _check_mask(method, task, result)
    moves: dict[str, float] = {}
    floors: dict[str, float] = {}
    evidence: dict[str, float] = {}
    means: Params = {}
    variances: Params = {}
    for name, values in sorted(result.params.items()):
        _check_finite(name, values)
        role = role_of(method, name)
        if role is Role.RUNNING_VAR:
            if bool((values < 0).any()):
                raise ResultError(f"{name} holds {float(values.min()):g}: a variance is never below 0")
            variances[name] = values.copy()
        elif role is Role.RUNNING_MEAN:
            means[name] = values.copy()
        elif role is not None and name in task.params:
            if task.params[name].shape != values.shape:
                raise ResultError(f"{name} has shape {values.shape}, the task's has {task.params[name].shape}")
            moves[name] = norm(change(method, task, result, name))
            floors[name] = FLOOR * norm(task.params[name])
        else:
            evidence[name] = norm(values) * square_scale(result, name)
    for name, vector in sorted(result.gradients.items()):
        _check_finite(f"gradient of {name}", vector.values)
        evidence[name] = norm(cut(vector).values)
    rewound = math.hypot(*floors.values()) / FLOOR if method.own_masks else 0.0
    return Measured(samples, moves, floors, evidence, means, variances, _losses(result), _numbers(result), rewound)


def norm(values: AnyArray) -> float:
    """Euclidean, in double precision: the same on every machine, whatever its BLAS."""
    return math.sqrt(float(np.square(values.astype(np.float64)).sum()))


def role_of(method: Method, name: str) -> Role | None:
    """What a result's array is for, None for evidence; a candidate's statistics travel as NUMBER/NAME."""
    params = method.problem.graph.params
    if name in params:
        return params[name].role
    of_candidate = params.get(name.rsplit("/", 1)[-1])
    return of_candidate.role if of_candidate is not None and of_candidate.role in STATISTICS else None


def change(method: Method, task: Payload, result: Payload, name: str) -> FloatArray:
    """How far training moved one array; under a mask of the device's own, what that mask keeps of it."""
    moved = result.params[name].astype(np.float64) - task.params[name]
    active = result.mask.get(name) if method.own_masks else None
    return moved if active is None or active.shape != moved.shape else moved * active


def square_scale(result: Payload, name: str) -> float:
    """What squared gradients, NAME^2, are to be multiplied with; 1 for all else."""
    scales = result.meta.get(SCALES)
    return finite(scales.get(name.removesuffix("^2"), 1.0), SCALES) if isinstance(scales, dict) else 1.0


def cut(vector: SparseVector) -> SparseVector:
    """Growth gradients as a fold takes them."""
    limit = np.float32(TrainFold.GRADIENT_LIMIT)
    return SparseVector(vector.positions, np.clip(vector.values, -limit, limit))


def _check_finite(name: str, values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise ResultError(f"{name} has a value that is not finite")


def _check_mask(method: Method, task: Payload, result: Payload) -> None:
    """One mask for all devices: a result of this very step that holds masked arrays is under it."""
    of_this_step = result.meta.get("step") == task.meta["step"]
    if method.own_masks or not of_this_step or not (result.mask or result.params.keys() & task.mask.keys()):
        return
    if mask_digest(result.mask) != mask_digest(task.mask):
        raise ResultError("the result is under another mask than its task")


def _numbers(result: Payload) -> dict[str, float]:
    numbers = {key: finite(result.meta[key], key) for key in NUMBERS if key in result.meta}
    for key, number in numbers.items():
        if number < 0.0 or (number > 1.0 and key != "loss"):
            raise ResultError(f"{key} is {number:g}, not from 0 {'up' if key == 'loss' else 'to 1'}")
    return numbers


def _losses(result: Payload) -> tuple[float, ...]:
    given: Any = result.meta.get(LOSSES)
    if given is None:
        return ()
    if not isinstance(given, list):
        raise ResultError(f"{LOSSES} is {given!r:.80}, not a list")
    losses = tuple(finite(value, "a candidate's loss") for value in given)
    if min(losses, default=0.0) < 0:
        raise ResultError(f"a candidate's loss is {min(losses):g}: a loss is never below 0")
    return losses
