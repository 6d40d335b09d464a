"""What a deployed file takes to run, measured: peak resident memory of a fresh process with one runtime.

``python -m tinyfleet.bench.inference_memory`` reads a ``Request`` as JSON from its input, answers with one line.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from tinyfleet.export.runtimes import open_all
from tinyfleet.fedcore.child import ask
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.rss import peak_bytes, resident_bytes

RUNS = 5
TIMEOUT_S = 300.0


class Request(msgspec.Struct, frozen=True):
    """A file and the shape of a sample, without the batch. The first runtime that is here runs it."""

    path: str
    input_shape: tuple[int, ...]


class MeasuredInference(msgspec.Struct, frozen=True):
    """Resident bytes: before the runtime was imported (Python, numpy), and the most while it predicted."""

    baseline_bytes: int
    peak_bytes: int


def measure(request: Request) -> MeasuredInference:
    """Measure in a child, one sample at a time on one thread. Raises ``DataError`` where that fails."""
    return ask("tinyfleet.bench.inference_memory", request, MeasuredInference, f"running {request.path}", TIMEOUT_S)


def measure_here(request: Request) -> MeasuredInference:
    """Measure in this process, which must be fresh."""
    baseline = resident_bytes()
    sample = np.random.default_rng(0).standard_normal((1, *request.input_shape)).astype(np.float32)
    runtime = next(open_all(Path(request.path)), None)
    if runtime is None:
        raise DataError(f"no runtime here reads {request.path}")
    for _ in range(RUNS):
        runtime.run(sample)
    return MeasuredInference(baseline, peak_bytes())


def main() -> int:
    """One request, one answer."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        answer = measure_here(request)
    except (DataError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
