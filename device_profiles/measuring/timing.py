"""Rates by the clock, of many short repetitions within a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Other programs take time from some repetitions, and never give any: the lower quartile of many short ones is
# steadier than the median of few long ones, and unlike the best does not hang on one lucky moment.
REPEATS = 25
# Of a repetition: long for the clock, short enough to be left alone, and all of them too long for one bad moment.
LEAST_S = 0.02
# A slow board or card repeats less, so that all probes together stay below 20 s: 16 MB take 1.6 s at the
# 10 MB/s that an SD card of speed class 10 promises.
FEWEST_REPEATS, PROBE_BUDGET_S = 2, 4.0

# Threads of the linear algebra library would measure the whole board, not one core.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Clock = Callable[[], float]


def steady_rate(
    work: float,
    run: Callable[[], object],
    clock: Clock = time.process_time,
    budget_s: float = PROBE_BUDGET_S,
    least_s: float = 0.0,
    repeats: int = REPEATS,
) -> float:
    """``work`` per second by the lower quartile of up to ``repeats`` times after a run to warm up.

    Within ``budget_s``, where at least ``FEWEST_REPEATS`` fit in. A repetition is one run, or as many as it takes
    to last about ``least_s``. ``clock`` is this process's processor time, of which others take none; give
    ``time.perf_counter`` for what waits.
    """
    begin = clock()
    run()
    loops = _loops(run, clock, least_s) if least_s > 0 else 1
    times: list[float] = []
    while len(times) < FEWEST_REPEATS or (len(times) < repeats and clock() - begin < budget_s):
        start = clock()
        for _ in range(loops):
            run()
        times.append(clock() - start)
    return work * loops / sorted(times)[len(times) // 4]


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
