"""An update as whole numbers of bounded Euclidean norm: what differential privacy adds noise to.

The unit is a part in 2^30 of the clip, so that sums are exact in any order and noise can be discrete. Values are
cut towards zero, never rounded away from it: the bound holds for the integers themselves, not nearly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.errors import ResultError

BITS = 30  # of the clip: the integers' norm is at most 2^30
_MARGIN = 1.0 - 2.0**-40  # more than all rounding errors of a norm together

Units = dict[str, IntArray]
"""Array name -> int64 values in units of clip / 2^30, flat: of a masked array those of its active entries."""


@dataclass(frozen=True, slots=True)
class StepBase:
    """What updates are taken against, as it travels: equal for all devices of a step, and known to all."""

    params: Params
    mask: Mask

    def clipped(self, values: Params, clip: float) -> Units:
        """``values`` less the base, scaled down to norm ``clip`` where they are further.

        An update with a value that is not finite counts as zero as a whole. Raises ``ResultError`` where arrays
        are missing, superfluous or of another shape.
        """
        self._check(values)
        with np.errstate(over="ignore", invalid="ignore"):
            changes = {
                name: self._support(name, values[name]).astype(np.float64) - self._support(name, before)
                for name, before in sorted(self.params.items())
            }
        norm = math.sqrt(math.fsum(float(np.square(change).sum()) for change in changes.values()))
        if not math.isfinite(norm):
            return {name: np.zeros(change.shape, np.int64) for name, change in changes.items()}
        factor = _MARGIN * min(1.0, clip / norm if norm else 1.0) * (2.0**BITS / clip)
        return {name: np.trunc(change * factor).astype(np.int64) for name, change in changes.items()}

    def moved(self, units: Mapping[str, IntArray], clip: float, parts: int = 1) -> Params:
        """The base plus a ``parts``-th of ``units``, in the base's shapes: float32, zero outside the mask."""
        step = clip / 2.0**BITS / parts
        moved: Params = {}
        for name, before in self.params.items():
            values = (self._support(name, before) + units[name] * step).astype(np.float32)
            active = self.mask.get(name)
            if active is None:
                moved[name] = values.reshape(before.shape)
            else:
                moved[name] = np.zeros(before.shape, np.float32)
                moved[name][active] = values
        return moved

    def _support(self, name: str, values: FloatArray) -> FloatArray:
        active = self.mask.get(name)
        part: FloatArray = values.reshape(-1) if active is None else values[active]
        return part

    def _check(self, values: Params) -> None:
        if values.keys() != self.params.keys():
            odd = sorted(values.keys() ^ self.params.keys())[:3]
            raise ResultError(f"result has the wrong arrays (first that differ: {', '.join(odd)})")
        for name, before in self.params.items():
            if values[name].shape != before.shape:
                raise ResultError(f"{name} has shape {values[name].shape}, the task's has {before.shape}")
