"""What a training step takes with exact and with pruned activation caches, each measured in a fresh process.

``python -m tinyfleet.bench.caches`` reads one request as JSON from its input and answers with one line.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from fedcore.errors import DataError
from tinyfleet.bench.rss import peak_bytes, reset_peak, resident_bytes

DENSITY = 0.05  # of the mask; the torch engine holds masked tensors densely all the same


class Request(msgspec.Struct, frozen=True):
    """One configuration of a training step."""

    model: str
    norm: str  # "batch", "nsconv"
    keep: float
    cache: Literal["fp32", "fp16"] = "fp32"
    pruned_norms: bool = False
    batch: int = 64
    steps: int = 3


@dataclass(frozen=True, slots=True)
class CacheRow:
    """MB are 10^6 bytes above the loaded model; seconds are the median of the steps, one thread."""

    model: str
    norm: str
    batch: int
    keep: float
    cache: str
    pruned_norms: bool
    baseline_rss_mb: float
    peak_mb: float
    activations_analytic_mb: float
    seconds_step: float


def configurations(model: str, batch: int) -> Iterator[Request]:
    """Exact and pruned, with batch norm and with normalised weights."""
    for norm in ("batch", "nsconv"):
        yield Request(model, norm, 1.0, batch=batch)
        for keep in (0.5, 0.3):
            yield Request(model, norm, keep, batch=batch)
        yield Request(model, norm, 0.3, "fp16", batch=batch)
    yield Request(model, "batch", 0.3, "fp16", pruned_norms=True, batch=batch)


def bench_caches(
    models: Sequence[str], batch: int, progress: Callable[[CacheRow, int, int], None]
) -> list[CacheRow]:
    """A row a configuration. Raises ``DataError`` where a measurement fails."""
    requests = [request for model in models for request in configurations(model, batch)]
    rows = []
    for request in requests:
        rows.append(measure(request))
        progress(rows[-1], len(rows), len(requests))
    return rows


def measure(request: Request) -> CacheRow:
    """Measure in a child process. Raises ``DataError`` with what it said where it fails."""
    command = [sys.executable, "-m", "tinyfleet.bench.caches"]
    child = subprocess.run(command, input=msgspec.json.encode(request), capture_output=True, check=False)
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"measuring {request.model} failed: {''.join(said)}")
    return msgspec.json.decode(child.stdout, type=CacheRow)


def measure_here(request: Request) -> CacheRow:
    """Measure in this process, which must be fresh."""
    from fedcore.accounting import activation_bytes
    from fedcore.models.registry import build
    from fedcore.run_spec import ModelSettings
    from fedcore.sparsity.allocation import erk_counts
    from fedcore.sparsity.mask import random_mask
    from fedcore.training.allocator import return_freed_memory
    from fedcore.training.engine import StepSettings
    from fedcore.training.registry import create

    graph = build(ModelSettings(request.model, (3, 32, 32), 10, {"norm": request.norm}))
    engine = create("torch")
    return_freed_memory()  # in every configuration: the peak is to be what is in use
    shapes = {name: graph.params[name].shape for name in graph.maskable}
    mask = random_mask(shapes, erk_counts(shapes, DENSITY), np.random.default_rng(0))
    engine.load(graph, graph.initial_params(0), mask)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((request.batch, 3, 32, 32), dtype=np.float32)
    y = rng.integers(0, 10, request.batch)
    settings = StepSettings(0.01, keep=request.keep, cache=request.cache, pruned_norm=request.pruned_norms)
    engine.train_step(x[:2], y[:2], settings)  # libraries are loaded, threads are started
    baseline = resident_bytes()
    reset_peak()
    seconds = []
    for _ in range(request.steps):
        started = time.perf_counter()
        engine.train_step(x, y, settings)
        seconds.append(time.perf_counter() - started)
    value = 2 if request.cache == "fp16" else 4
    analytic = activation_bytes(graph, request.batch, request.keep, value, request.pruned_norms)
    return CacheRow(
        request.model,
        request.norm,
        request.batch,
        request.keep,
        request.cache,
        request.pruned_norms,
        baseline / 1e6,
        (peak_bytes() - baseline) / 1e6,
        analytic / 1e6,
        statistics.median(seconds),
    )


if __name__ == "__main__":
    answer = measure_here(msgspec.json.decode(sys.stdin.buffer.read(), type=Request))
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
