"""How fast a board trains, by its profile: what is predicted from before it has done a single task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyfleet.device_profiles.speed import sheet_gflops

# Of a dense product's rate, what a whole training step keeps. Only the order of magnitude: the first
# finished task of a run corrects it for the whole fleet.
TRAINING_SHARE = 0.25


def training_gflops(profile: Mapping[str, Any]) -> tuple[float, str] | None:
    """GFLOPS of a training step on all cores, and what that rests on; None where the profile tells too little.

    ``profile`` is a device profile as plain data: measured rates come first, then the data sheet's figures.
    """
    cores, measured = _number(profile.get("cores")), profile.get("measured")
    if isinstance(measured, Mapping):
        usable, rate = _number(measured.get("cores")), _number(measured.get("convolution_gflops"))
        heat = measured.get("thermal")
        sustained = _number(heat.get("sustained_share")) if isinstance(heat, Mapping) else 0.0
        if usable and rate:
            return usable * rate * (min(sustained, 1.0) or 1.0) * TRAINING_SHARE, "the board's measured speed"
    core = sheet_gflops(str(profile.get("cpu", "")), _number(profile.get("clock_mhz")))
    return (core * cores * TRAINING_SHARE, "the board's data sheet") if core and cores else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0
