"""Where a board's measurement and its shipped profile disagree, what to do about it, and how two compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tinyfleet.device_profiles.known_boards import known
from tinyfleet.device_profiles.profile import DeviceProfile, Measurement, Thermal

# Firmware and kernel keep some of a data sheet's memory, at most this share on the boards that are known.
KEPT_SHARE = 0.2
# What two boards of one kind may differ by; measuring again on a quiet one differs by up to a tenth.
TOLERANCE = 0.25
# Cores of several kinds have one figure, the mean of their clocks; the data sheet gives the fastest.
CLOCK_TOLERANCE = 0.2
SUSTAINED_SHARE = 0.9
_ANY_ENGINE = ("memory_bandwidth_gbs", "disk_write_mbs")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A figure that is not what the shipped profile promises."""

    figure: str
    here: float
    shipped: float
    remedy: str

    def __str__(self) -> str:
        here, promised = (self._shown(value) for value in (self.here, self.shipped))
        return f"{self.figure} is {here} here, {promised} in the shipped profile; {self.remedy}"

    def _shown(self, value: float) -> str:
        return f"{value / 1e6:.0f} MB" if self.figure.endswith("_bytes") else f"{value:.4g}"


def disagreements(found: DeviceProfile, promised: DeviceProfile | None = None) -> list[Disagreement]:
    """All of them, for a measured profile; ``promised`` is the shipped one of its name where it is not given.

    A board that is not shipped, or that was not measured, disagrees with nothing.
    """
    board = known().get(found.name) if promised is None else promised
    if found.measured is None or board is None or board.name == "generic":
        return []
    all_found = [*_memory(found, found.measured, board), *_cores(found.measured, board)]
    if found.measured.thermal is not None:
        all_found += _heat(found.measured.thermal, board)
    if board.measured is not None:
        all_found += _rates(found.measured, board.measured)
    return all_found


def _memory(found: DeviceProfile, measured: Measurement, board: DeviceProfile) -> Iterator[Disagreement]:
    """Less than there should be; more is a larger variant."""
    least = (1.0 - KEPT_SHARE) * board.memory_bytes
    if found.memory_bytes < least:
        remedy = "a control group, a limit or the GPU's part takes the rest: raise it, or keep to less here"
        yield Disagreement("memory_bytes", found.memory_bytes, board.memory_bytes, remedy)
        return
    expected = least if board.measured is None else float(board.measured.usable_memory_bytes)
    if measured.usable_memory_bytes < (1.0 - TOLERANCE) * expected:
        remedy = "other programs hold the rest: end what is not needed, and measure again"
        yield Disagreement("usable_memory_bytes", measured.usable_memory_bytes, expected, remedy)


def _cores(measured: Measurement, board: DeviceProfile) -> Iterator[Disagreement]:
    if measured.cores < board.cores:
        remedy = "affinity, a CPU quota or the power mode keeps some away: lift it, or train on fewer threads"
        yield Disagreement("cores", measured.cores, board.cores, remedy)
    elif measured.cores > board.cores:
        yield Disagreement("cores", measured.cores, board.cores, "a larger variant: use this measurement")


def _heat(heat: Thermal, board: DeviceProfile) -> Iterator[Disagreement]:
    """A data sheet knows no heat: it promises its clock, for ever."""
    clock = heat.start_clock_mhz
    if clock is not None and clock < (1.0 - CLOCK_TOLERANCE) * board.clock_mhz:
        remedy = "a governor, a power mode or a weak supply holds it back: see 'profile sensors'"
        yield Disagreement("clock_mhz under load", clock, board.clock_mhz, remedy)
    known = board.measured.thermal if board.measured is not None else None
    promised = 1.0 if known is None else known.sustained_share
    if heat.sustained_share < SUSTAINED_SHARE * promised or heat.throttled:
        what = "it throttled" if heat.throttled else "it slows down"
        remedy = f"{what} under load: cool it, feed it better, or expect longer rounds"
        yield Disagreement("sustained_share", heat.sustained_share, promised, remedy)


def _rates(found: Measurement, promised: Measurement) -> Iterator[Disagreement]:
    """Both ways: a board that is much faster is another board, or was measured otherwise."""
    for name, (value, expected) in _pairs(found, promised).items():
        if value < (1.0 - TOLERANCE) * expected:
            yield Disagreement(
                name, value, expected, "other programs or a slow part: measure again on a quiet board"
            )
        elif value > (1.0 + TOLERANCE) * expected:
            yield Disagreement(name, value, expected, "faster than its kind: use this measurement, not the profile")


# -- two measurements ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two measurements; ``share`` is what the larger has above the smaller, by the smaller."""

    figure: str
    first: float
    second: float
    share: float


def differences(first: Measurement, second: Measurement) -> list[Difference]:
    """All rates that both have, the largest difference first; GFLOP/s where both are by the same engine."""
    found = [Difference(name, *pair, _share(*pair)) for name, pair in _pairs(first, second).items()]
    return sorted(found, key=lambda difference: -difference.share)


def _share(first: float, second: float) -> float:
    if first == second:
        return 0.0
    return max(first, second) / min(first, second) - 1.0 if min(first, second) > 0 else math.inf


def _pairs(first: Measurement, second: Measurement) -> dict[str, tuple[float, float]]:
    """What can be compared of two measurements, by name."""
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _ANY_ENGINE}
    if first.engine == second.engine:
        pairs["convolution_gflops"] = (first.convolution_gflops, second.convolution_gflops)
        ours = {(rate.kernel, rate.dtype, rate.density): rate.gflops for rate in first.rates}
        for rate in second.rates:
            gflops = ours.get((rate.kernel, rate.dtype, rate.density))
            if gflops is not None:
                pairs[f"gflops {rate.kernel} {rate.dtype} {rate.density:g}"] = (gflops, rate.gflops)
    return pairs
