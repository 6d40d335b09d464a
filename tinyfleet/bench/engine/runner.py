"""The benchmark: both engines' steps in turn, each engine in its own process, a row a cell."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyfleet.bench.engine.arms import VARIANTS, Variant, fastest, native_arm, torch_arm
from tinyfleet.bench.engine.cells import EngineCell

WARM_UP = 2
STEPS = 7
PAUSE_S = 0.01  # between the arms: threads that wait for more work still spin for a moment


@dataclass(frozen=True, slots=True)
class EngineRow:
    """Seconds are medians of a step's; MB are 10^6 bytes resident in the whole process at its peak.

    ``*_first_step_s`` is from the start of a fresh process to the end of its first step.
    """

    model: str
    density: float
    batch: int
    micro_batch: int
    keep: float
    threads: int
    ours_s: float
    torch_dense_s: float
    speedup: float
    ours_peak_rss_mb: float
    torch_peak_rss_mb: float
    recompute: int
    cache: str
    pruned_norm: bool
    ours_first_step_s: float
    torch_first_step_s: float
    torch_variant: str
    speedup_target: float | None
    peak_target_mb: float | None


Told = Callable[[str], None]


def bench_engine(
    cells: Sequence[EngineCell], steps: int, told: Told, tried: Sequence[Variant] = VARIANTS
) -> list[EngineRow]:
    """A row a cell, against the fastest of the torch variants tried. Raises ``DataError`` where an arm fails."""
    variants: dict[tuple[str, int, int], Variant] = {}
    rows = []
    for done, cell in enumerate(cells):
        place = (
            f"{done + 1}/{len(cells)} {cell.model} d={cell.density:g} batch {cell.batch}, {cell.threads} threads"
        )
        key = (cell.model, cell.batch, cell.threads)
        if key not in variants:
            told(f"{place}: which dense torch is the fastest")
            variants[key] = fastest(cell, max(1, steps // 2), tried)
        told(place)
        rows.append(measure(cell, variants[key], steps))
    return rows


def measure(cell: EngineCell, variant: Variant, steps: int) -> EngineRow:
    """Both arms' steps, one of each in turn. Raises ``DataError`` where an arm fails."""
    with native_arm(cell) as ours, torch_arm(cell, variant) as dense:
        ours_s: list[float] = []
        dense_s: list[float] = []
        for _ in range(WARM_UP - 1 + steps):  # the first step was one
            for arm, seconds in ((ours, ours_s), (dense, dense_s)):
                time.sleep(PAUSE_S)
                seconds.append(arm.step())
        ours_median, dense_median = (statistics.median(s[WARM_UP - 1 :]) for s in (ours_s, dense_s))
        return EngineRow(
            model=cell.model,
            density=cell.density,
            batch=cell.batch,
            micro_batch=cell.levers.micro_batch,
            keep=cell.levers.activation_keep,
            threads=cell.threads,
            ours_s=ours_median,
            torch_dense_s=dense_median,
            speedup=dense_median / ours_median,
            ours_peak_rss_mb=ours.peak_bytes / 1e6,
            torch_peak_rss_mb=dense.peak_bytes / 1e6,
            recompute=cell.levers.recompute,
            cache=cell.levers.cache,
            pruned_norm=cell.pruned_norm,
            ours_first_step_s=ours.first_step_s,
            torch_first_step_s=dense.first_step_s,
            torch_variant=str(variant),
            speedup_target=cell.speedup_target,
            peak_target_mb=cell.peak_target_mb,
        )
