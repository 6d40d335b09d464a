"""Rates by the clock: medians of several repetitions, within a budget."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

REPEATS = 7
# A slow board or card repeats less, so that all probes together stay below 20 s: 16 MB take 1.6 s at the
# 10 MB/s that an SD card of speed class 10 promises.
FEWEST_REPEATS, PROBE_BUDGET_S = 2, 4.0

# Threads of the linear algebra library would measure the whole board, not one core.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Clock = Callable[[], float]


def median_rate(
    work: float,
    run: Callable[[], object],
    clock: Clock = time.perf_counter,
    budget_s: float = PROBE_BUDGET_S,
    least_s: float = 0.0,
) -> float:
    """``work`` per second, median of up to ``REPEATS`` repetitions after a run to warm up, within ``budget_s``.

    A repetition is one run, or as many as it takes to last about ``least_s``.
    """
    begin = clock()
    run()
    loops = _loops(run, clock, least_s) if least_s > 0 else 1
    times: list[float] = []
    while len(times) < FEWEST_REPEATS or (len(times) < REPEATS and clock() - begin < budget_s):
        start = clock()
        for _ in range(loops):
            run()
        times.append(clock() - start)
    return work * loops / statistics.median(times)


def _loops(run: Callable[[], object], clock: Clock, least_s: float) -> int:
    """Doubles until the clock can tell: one run of some microseconds would say too little."""
    loops = 1
    while True:
        start = clock()
        for _ in range(loops):
            run()
        took = clock() - start
        if took >= least_s / 4:
            return max(1, math.ceil(loops * least_s / took))
        loops *= 2
