"""The named arrays of a model: shapes, roles, and the numbers that training starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a named array of the model is for."""

    WEIGHT = "weight"  # of a layer that may be pruned: its mask has the same shape
    BIAS = "bias"
    NORM_SCALE = "norm_scale"
    NORM_SHIFT = "norm_shift"
    GAIN = "gain"  # of a filter with normalised weights
    RUNNING_MEAN = "running_mean"
    RUNNING_VAR = "running_var"


STATISTICS = frozenset({Role.RUNNING_MEAN, Role.RUNNING_VAR})
"""Roles of arrays that follow the data and have no gradient."""


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """Shape and role of one named array. Conv weights are (out, in / groups, *kernel), linear (out, in).

    Training starts from normal numbers of deviation ``spread``, or from ``start`` everywhere where that is 0.
    """

    shape: tuple[int, ...]
    role: Role
    start: float = 0.0
    spread: float = 0.0

    @property
    def size(self) -> int:
        return math.prod(self.shape)
