"""Budget-aware extrusion (FedMef, section 3.2): move what marked weights know into the others before they go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tinyfleet.fedcore.arrays import IntArray, Mask, Params
from tinyfleet.fedcore.methods.parts.local import LocalResult, LocalRound, Progress, part_of
from tinyfleet.fedcore.sparsity.mask import smallest


def marked_weights(params: Params, mask: Mask, counts: Mapping[str, int]) -> dict[str, IntArray]:
    """theta_low: the q_l smallest |w| of each layer's ACTIVE weights, as flat positions."""
    marked = {}
    for name, count in counts.items():
        active = np.flatnonzero(mask[name].reshape(-1))
        marked[name] = smallest(params[name].reshape(-1)[active], active, count)
    return marked


def extrusion_rate(step: int, budget: int, norm: float, base: float, initial: float) -> float:
    """mu_t = max(eta_r, beta_t), beta_t = (2T - 2t) / (2T - t) (2 sigmoid(||theta_low||) - 1) eta_0.

    It falls to the round's own rate ``base`` as the marked weights vanish or the budget of T steps is spent.
    """
    share = (2.0 * budget - 2.0 * step) / (2.0 * budget - step)
    return max(base, share * math.tanh(norm / 2.0) * initial)  # 2 sigmoid(x) - 1 = tanh(x / 2)


def extrude(local: LocalRound, marked: Mapping[str, IntArray], *, strength: float, budget: int) -> LocalResult:
    """A local round whose last ``budget`` steps (0: all of it) minimise L + strength ||theta_low||^2.

    The marked set stays fixed. With a budget beyond the local round more epochs follow, unless the device is
    given fewer steps than a round has.
    Raises ``ResultError`` where the loss is no longer finite.
    """
    engine, settings = local.engine, local.settings
    steps = part_of(max(local.whole, budget), local.control)
    budget = min(budget or local.whole, steps)
    progress = Progress(steps, local.control)
    engine.mark(marked)
    for x, y in local.batches(steps):
        t = progress.step - (steps - budget)
        own = settings
        if t >= 0:
            rate = extrusion_rate(
                t, budget, engine.marked_norm(), settings.learning_rate, local.training.learning_rate
            )
            own = replace(settings, learning_rate=rate, penalty=strength)
        progress.add(local.step(x, y, own), len(y), own.learning_rate)
    engine.mark({})
    return local.result(progress, (x, y))
