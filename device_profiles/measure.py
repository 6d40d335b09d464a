"""What a board really gives: short probes, each a function, medians of several repetitions."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from device_profiles.detect import usable_cores
from device_profiles.limits import usable_memory_bytes
from device_profiles.profile import Measurement

REPEATS = 7
COPY_BYTES = 64_000_000
DISK_BYTES = 32_000_000

Progress = Callable[[str, int, int], None]


def _median_rate(work: float, run: Callable[[], object]) -> float:
    """``work`` per second, median of ``REPEATS`` runs after one to warm up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return work / statistics.median(times)


def convolution_gflops() -> float:
    """Dense 3x3 convolution, 64 to 64 channels at 32x32, batch 4, as im2col and one matrix product."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    batch, channels, size = 4, 64, 32
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, channels, size + 2, size + 2), np.float32)
    weights = rng.standard_normal((channels, channels * 9), np.float32)

    def run() -> object:
        windows = sliding_window_view(x, (3, 3), axis=(2, 3))  # type: ignore[call-overload]
        columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(channels * 9, -1)
        return weights @ columns

    flops = 2.0 * batch * channels * channels * 9 * size * size
    return _median_rate(flops, run) / 1e9


def memory_bandwidth_gbs() -> float:
    """Copy between two buffers: every byte is read once and written once."""
    source, target = bytearray(COPY_BYTES), bytearray(COPY_BYTES)
    view = memoryview(target)

    def run() -> None:
        view[:] = source

    return _median_rate(2.0 * COPY_BYTES, run) / 1e9


def disk_write_mbs(directory: Path) -> float:
    """Write and flush a temporary file in ``directory``."""
    data = os.urandom(DISK_BYTES)

    def run() -> None:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return _median_rate(DISK_BYTES, run) / 1e6


def measure(directory: Path | None = None, progress: Progress = lambda probe, done, total: None) -> Measurement:
    """Run all probes, in some ten seconds; ``directory`` is where the disk is measured (the working one)."""
    # Threads of the linear algebra library would measure the whole board, not one core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    probes: list[tuple[str, Callable[[], float]]] = [
        ("convolution_gflops", convolution_gflops),
        ("memory_bandwidth_gbs", memory_bandwidth_gbs),
        ("disk_write_mbs", lambda: disk_write_mbs(directory or Path.cwd())),
    ]
    usable = usable_memory_bytes()
    found: dict[str, float] = {}
    for index, (name, probe) in enumerate(probes):
        progress(name, index, len(probes))
        found[name] = round(probe(), 3)
    progress("", len(probes), len(probes))
    return Measurement(
        usable_memory_bytes=usable,
        cores=usable_cores(),
        convolution_gflops=found["convolution_gflops"],
        memory_bandwidth_gbs=found["memory_bandwidth_gbs"],
        disk_write_mbs=found["disk_write_mbs"],
    )
