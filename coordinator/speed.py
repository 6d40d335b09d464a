"""How fast a board trains, by its profile: what is predicted from before it has done a single task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Peak of one core's NEON units, FLOPs a cycle in fp32 (Arm's optimisation guides), and the share of it that
# dense products reach: cores that execute in order wait for their loads.
_CORES: dict[str, tuple[float, float]] = {
    "A53": (8.0, 0.25),
    "A55": (8.0, 0.25),
    "A57": (8.0, 0.5),
    "A72": (8.0, 0.5),
    "Carmel": (16.0, 0.5),
    "A76": (16.0, 0.5),
    "A78": (16.0, 0.5),
}

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
    clock = _number(profile.get("clock_mhz"))
    for core, (flops, reached) in _CORES.items():
        if core in str(profile.get("cpu", "")) and clock and cores:
            return clock * 1e-3 * cores * flops * reached * TRAINING_SHARE, "the board's data sheet"
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0
