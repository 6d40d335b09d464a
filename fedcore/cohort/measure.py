"""One result by itself: whether it may be an answer to its task at all, and the numbers that cohorts compare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples, finite
from tinyfleet.fedcore.methods.parts.reconfiguration import SCALES
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.models.params import STATISTICS, Role
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.sparsity.mask import mask_digest

LOSSES = "losses"  # in a result's meta: one a candidate, of methods that select a mask by them


@dataclass(frozen=True, slots=True)
class Measured:
    """What is kept of a result until its step closes: a few numbers, and the arrays that batch norm counts."""

    samples: int
    norm: float  # Euclidean, of what training changed; of the weights themselves under a mask of its own
    base_norm: float  # of the same arrays in the task
    evidence_norm: float  # of growth gradients and of all else that is no parameter
    means: Params
    variances: Params
    losses: tuple[float, ...]


def measure(method: Method, task: Payload, result: Payload, enrolled: int = 0) -> Measured:
    """Check ``result`` by itself and measure it against ``task``.

    ``enrolled`` is the number of samples that the device enrolled with; 0: not known. Raises ``ResultError``
    for values that are not finite, another mask than the task's, variances below zero, more samples than
    enrolled, and losses that are no losses.
    """
    samples = checked_samples(result)
    if enrolled and samples > enrolled:
        raise ResultError(f"samples is {samples}, and the device enrolled with {enrolled}")
    _check_mask(method, task, result)
    specs = method.problem.graph.params
    means: Params = {}
    variances: Params = {}
    changed = base = evidence = 0.0
    for name, values in sorted(result.params.items()):
        spec = specs.get(name.rsplit("/", 1)[-1])  # a candidate's statistics travel as NUMBER/NAME
        _check_finite(name, values)
        if spec is not None and spec.role in STATISTICS:
            if spec.role is Role.RUNNING_VAR and bool((values < 0).any()):
                raise ResultError(f"{name} holds {float(values.min()):g}: a variance is never below 0")
            (variances if spec.role is Role.RUNNING_VAR else means)[name] = values.copy()
        elif name in specs and name in task.params:
            before = task.params[name]
            if before.shape != values.shape:
                raise ResultError(f"{name} has shape {values.shape}, the task's has {before.shape}")
            base += squares(before)
            changed += squares(_changed(method, before, name, result))
        else:
            scales = result.meta.get(SCALES)
            scale = finite(scales.get(name.removesuffix("^2"), 1.0), SCALES) if isinstance(scales, dict) else 1.0
            evidence += squares(values) * scale * scale
    for name, vector in sorted(result.gradients.items()):
        _check_finite(f"gradient of {name}", vector.values)
        evidence += squares(np.clip(vector.values, -TrainFold.GRADIENT_LIMIT, TrainFold.GRADIENT_LIMIT))
    return Measured(
        samples, math.sqrt(changed), math.sqrt(base), math.sqrt(evidence), means, variances, _losses(result)
    )


def squares(values: AnyArray) -> float:
    """The sum of the squares, in double precision: the same on every machine, whatever its BLAS."""
    return float(np.square(values.astype(np.float64)).sum())


def _changed(method: Method, before: FloatArray, name: str, result: Payload) -> FloatArray:
    values = result.params[name]
    if not method.own_masks:
        return values.astype(np.float64) - before
    active = result.mask.get(name)
    return values if active is None or active.shape != values.shape else values * active


def _check_finite(name: str, values: FloatArray) -> None:
    if not np.isfinite(values).all():
        raise ResultError(f"{name} has a value that is not finite")


def _check_mask(method: Method, task: Payload, result: Payload) -> None:
    """One mask for all devices: a result of this very step names it, or none."""
    of_this_step = result.meta.get("step") == task.meta["step"]
    if method.own_masks or not of_this_step or not result.mask:
        return
    if mask_digest(result.mask) != mask_digest(task.mask):
        raise ResultError("the result is under another mask than its task")


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
