"""What both arms' processes do: train a step on random samples each time the parent asks, and tell what it took.

One JSON document a line each way: the parent's first line is the request, any further line asks for one more step.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyfleet.fedcore.rss import peak_bytes, reset_peak

Answers = Iterator[dict[str, Any]]
TrainStep = Callable[[NDArray[np.float32], NDArray[np.int64]], float]


def steps(train_step: TrainStep, batch: int, input_shape: tuple[int, ...], classes: int) -> Answers:
    """One a step: its seconds and loss, and the process's peak in bytes (``reset``: since the first began)."""
    reset = True
    try:
        reset_peak()
    except OSError:
        reset = False  # the peak then is that of loading, too
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *input_shape), dtype=np.float32)
    y = rng.integers(0, classes, batch)
    while True:
        started = time.perf_counter()
        loss = train_step(x, y)
        seconds = time.perf_counter() - started
        yield {"event": "step", "seconds": seconds, "loss": loss, "peak": peak_bytes(), "reset": reset}


def main(serve: Callable[[dict[str, Any]], Answers]) -> None:
    """Answer on standard output until standard input ends."""
    lines = iter(sys.stdin)
    for answer in serve(json.loads(next(lines))):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if next(lines, None) is None:
            break
