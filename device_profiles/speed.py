"""How fast a board's cores compute: as measured, else by its data sheet."""

from __future__ import annotations

from tinyfleet.device_profiles.profile import DeviceProfile

# Peak of one core's NEON units, FLOPs a cycle in fp32 (Arm's optimisation guides), and the share of it that
# dense products reach: cores that execute in order wait for their loads.
CORES: dict[str, tuple[float, float]] = {
    "A53": (8.0, 0.25),
    "A55": (8.0, 0.25),
    "A57": (8.0, 0.5),
    "A72": (8.0, 0.5),
    "Carmel": (16.0, 0.5),
    "A76": (16.0, 0.5),
    "A78": (16.0, 0.5),
}


def core_gflops(profile: DeviceProfile) -> tuple[float, str] | None:
    """(GFLOP/s of dense arithmetic on one core, what that rests on); None where the profile tells too little."""
    measured = profile.measured
    if measured is not None and measured.convolution_gflops > 0.0:
        sustained = 1.0 if measured.thermal is None else min(1.0, measured.thermal.sustained_share or 1.0)
        return measured.convolution_gflops * sustained, "measured"
    rate = sheet_gflops(profile.cpu, profile.clock_mhz)
    return None if rate is None else (rate, "data sheet")


def sheet_gflops(cpu: str, clock_mhz: float) -> float | None:
    """The same from a processor's name and clock; None where either is not known."""
    for core, (flops, reached) in CORES.items():
        if core in cpu and clock_mhz > 0:
            return clock_mhz * 1e-3 * flops * reached
    return None
