"""One ranking over all layers: the largest scores of the whole model stay, and no layer loses its last weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.sparsity.mask import largest


def global_count(scores: Mapping[str, FloatArray], density: float) -> int:
    """Weights that stay: floor(d sum n_l), but one a layer. Raises ``ConfigError`` where no layer can be pruned."""
    if not scores:
        raise ConfigError("the model has no maskable layer to prune; choose another model")
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"density {density} is not in (0, 1]; 0.05 keeps one weight in twenty")
    return max(len(scores), math.floor(density * sum(values.size for values in scores.values()) + 1e-9))


def global_mask(scores: Mapping[str, FloatArray], density: float, within: Mask | None = None) -> Mask:
    """Keep the ``global_count`` largest scores (none negative) over all layers together.

    With ``within`` only its active weights can stay: pruning in steps never revives one.
    """
    return keep_largest(scores, global_count(scores, density), within)


def keep_largest(scores: Mapping[str, FloatArray], count: int, within: Mask | None = None) -> Mask:
    """Keep the ``count`` largest scores (none negative), at least one a layer, whatever the others have.

    Ties go to the earlier layer, then to the lower position.
    """
    names = list(scores)
    flat = np.concatenate([scores[name].reshape(-1) for name in names])
    open_ = np.ones(len(flat), np.bool_)
    if within:
        open_ = np.concatenate([within[name].reshape(-1) for name in names])
    starts = np.cumsum([0, *(scores[name].size for name in names)])
    kept = np.zeros(len(flat), np.bool_)
    for start, stop in zip(starts, starts[1:], strict=False):
        positions: IntArray = start + np.flatnonzero(open_[start:stop])
        kept[largest(flat[positions], positions, 1)] = True
    rest = np.flatnonzero(open_ & ~kept)
    kept[largest(flat[rest], rest, count - len(names))] = True
    parts = np.split(kept, starts[1:-1])
    return {name: part.reshape(scores[name].shape) for name, part in zip(names, parts, strict=True)}
