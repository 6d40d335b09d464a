"""The one container that methods exchange: run states, tasks and results alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


class SparseVector(NamedTuple):
    """Values at flat positions of one tensor. ``positions`` (int64) rise strictly; ``values`` are float32."""

    positions: IntArray
    values: FloatArray


@dataclass(slots=True)
class Payload:
    """Named arrays and a small JSON dictionary.

    ``params`` holds full-shape float32 arrays; of those named in ``mask`` only the active entries
    travel, the rest is zero. ``gradients`` are the top-K gradients of pruned weights. ``raw`` is what
    only its receiver can read.
    """

    meta: dict[str, Json] = field(default_factory=dict)
    params: Params = field(default_factory=dict)
    mask: Mask = field(default_factory=dict)
    gradients: dict[str, SparseVector] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
