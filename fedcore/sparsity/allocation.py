"""How a target density is shared among the layers: uniform, ERK, and FedTiny's random vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.sparsity.mask import random_mask

Shapes = Mapping[str, tuple[int, ...]]


def _check(density: float) -> None:
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"density {density} is not in (0, 1]; 0.05 keeps one weight in twenty")


def uniform_counts(shapes: Shapes, density: float) -> dict[str, int]:
    """Active counts with the same density in every layer: max(1, floor(d n_l))."""
    _check(density)
    return {name: max(1, math.floor(density * math.prod(shape) + 1e-9)) for name, shape in shapes.items()}


def erk_counts(shapes: Shapes, density: float) -> dict[str, int]:
    """Active counts by Erdos-Renyi-Kernel (Evci et al. 2020): layer density ~ sum(shape) / prod(shape).

    Layers whose share would pass 1 are dense, and the rest is scaled again; the total is
    floor(d sum n_l), exactly, as long as every layer can keep one weight.
    """
    _check(density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    total = max(len(sizes), math.floor(density * sum(sizes.values()) + 1e-9))
    full: set[str] = set()
    while True:
        budget = total - sum(sizes[name] for name in full)
        weight = sum(raw[name] * sizes[name] for name in sizes if name not in full)
        scale = budget / weight if weight else 0.0
        over = {name for name in sizes if name not in full and scale * raw[name] >= 1.0}
        if not over:
            break
        full |= over
    exact = {name: sizes[name] if name in full else max(1.0, scale * raw[name] * sizes[name]) for name in sizes}
    return _round_to(exact, sizes, total)


def _round_to(exact: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole counts near ``exact`` with the given sum: largest remainders first."""
    counts = {name: min(sizes[name], math.floor(value)) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (-(exact[name] - math.floor(exact[name])), name))
    missing = total - sum(counts.values())
    while missing:
        step = 1 if missing > 0 else -1
        movable = [n for n in by_remainder if (counts[n] < sizes[n] if step > 0 else counts[n] > 1)]
        if not movable:
            break
        for name in movable[: abs(missing)]:
            counts[name] += step
        missing = total - sum(counts.values())
    return counts


def erk_mask(shapes: Shapes, density: float, rng: np.random.Generator) -> Mask:
    """A random mask of ERK's counts; none, which is dense, at density 1."""
    return random_mask(shapes, erk_counts(shapes, density), rng) if density < 1.0 else {}


ALLOCATIONS = {"uniform": uniform_counts, "erk": erk_counts}


def candidate_counts(
    shapes: Shapes,
    density: float,
    rng: np.random.Generator,
    spread: float = 0.5,
    allocation: str = "uniform",
    tolerance: float = 0.02,
) -> dict[str, int]:
    """One candidate's counts: d_l (1 + u_l), u_l ~ U(-spread, spread), redrawn until the overall
    density is at most d and misses it by less than ``tolerance`` (FedTiny, section 3.2; the authors' code
    also lets it pass d). d_l is d itself, or ERK's density of the layer.

    Where floors and dense layers make the tolerance unreachable, it doubles every 1,000 draws.
    """
    base = ALLOCATIONS[allocation](shapes, density)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    target = density * sum(sizes.values())
    for draw in range(20_000):
        factors = rng.uniform(1.0 - spread, 1.0 + spread, len(sizes))
        counts = {
            name: min(sizes[name], max(1, math.floor(count * factor + 1e-9)))
            for (name, count), factor in zip(base.items(), factors, strict=True)
        }
        if 0.0 <= (target - sum(counts.values())) / target < tolerance * 2 ** (draw // 1_000):
            return counts
    return base  # layers so small that floors alone decide
