"""What a board really gives: short probes, each a function, of many short repetitions."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.limits import usable_memory_bytes
from tinyfleet.device_profiles.measuring import thermal
from tinyfleet.device_profiles.measuring.rates import active_rate, cases, one_torch_thread
from tinyfleet.device_profiles.measuring.timing import LEAST_S, ONE_THREAD, PROBE_BUDGET_S, steady_rate
from tinyfleet.device_profiles.profile import Measurement, ProfileError, Rate

COPY_BYTES, COPY_REPEATS, COPY_BURSTS = 64_000_000, 40, 8
DISK_BYTES = 16_000_000
DISK_REPEATS = 12  # a card is worn by what is written
ENGINES = ("numpy", "torch")
APART_TIMEOUT_S = 60.0

Progress = Callable[[str, int, int], None]


# Dense 3x3 convolution: images, channels in and out, height and width.
BATCH, CHANNELS, SIZE = 4, 64, 32
CONVOLUTION_FLOPS = 2.0 * BATCH * CHANNELS * CHANNELS * 9 * SIZE * SIZE


def convolution_gflops() -> float:
    """As im2col and one matrix product: what an engine without torch can count on."""
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, CHANNELS, SIZE + 2, SIZE + 2), np.float32)
    weights = rng.standard_normal((CHANNELS, CHANNELS * 9), np.float32)

    def run() -> object:
        windows = sliding_window_view(x, (3, 3), axis=(2, 3))  # type: ignore[call-overload]
        columns = windows.transpose(1, 4, 5, 0, 2, 3).reshape(CHANNELS * 9, -1)
        return weights @ columns

    return steady_rate(CONVOLUTION_FLOPS, run, least_s=LEAST_S) / 1e9


def torch_convolution_gflops() -> float:
    """The same convolution by torch, on one thread of the processor."""
    import torch

    x = torch.randn(BATCH, CHANNELS, SIZE, SIZE)
    weights = torch.randn(CHANNELS, CHANNELS, 3, 3)
    with one_torch_thread(), torch.no_grad():

        def run() -> object:
            return torch.nn.functional.conv2d(x, weights, padding=1)

        return steady_rate(CONVOLUTION_FLOPS, run, least_s=LEAST_S) / 1e9


@functools.cache
def gflops_apart(engine: str) -> float:
    """The convolution by ``engine`` on one thread, in a process of its own; measured once (up to 4 s).

    The linear algebra library reads its number of threads when it is loaded, which has happened in most callers.
    Raises ``ProfileError`` for an engine that is unknown or not installed, or where measuring fails.
    """
    check_engine(engine)
    name = "torch_convolution_gflops" if engine == "torch" else "convolution_gflops"
    code = f"from tinyfleet.device_profiles.measuring.measure import {name} as run; print(run())"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            check=True,
            timeout=APART_TIMEOUT_S,
            text=True,
        )
        return float(child.stdout)
    except subprocess.TimeoutExpired:
        raise ProfileError(f"measuring this machine's speed took more than {APART_TIMEOUT_S:g} s") from None
    except (subprocess.CalledProcessError, ValueError) as error:
        last = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1:]
        raise ProfileError(f"measuring this machine's speed with {engine} failed: {''.join(last)}") from None


def check_engine(engine: str) -> None:
    """Raise ``ProfileError`` for an engine that is unknown or not installed."""
    if engine not in ENGINES:
        raise ProfileError(f"engine {engine!r} cannot measure; choose one of {', '.join(ENGINES)}")
    if importlib.util.find_spec(engine) is None:
        extra = "tinyfleet[torch]" if engine == "torch" else "tinyfleet"
        raise ProfileError(
            f"engine {engine!r} is not installed; pip install '{extra}', or measure with another engine"
        )


def memory_bandwidth_gbs() -> float:
    """Copy between two buffers: every byte is read once and written once."""
    source, target = bytearray(COPY_BYTES), bytearray(COPY_BYTES)
    view = memoryview(target)

    def run() -> None:
        view[:] = source

    # Whatever else uses the memory, a virtual machine's neighbours too, takes a share for a second at a time.
    budget = PROBE_BUDGET_S / COPY_BURSTS
    rates = [steady_rate(2.0 * COPY_BYTES, run, budget_s=budget, repeats=COPY_REPEATS) for _ in range(COPY_BURSTS)]
    return max(rates) / 1e9


def disk_write_mbs(directory: Path) -> float:
    """Write and flush a temporary file in ``directory``."""
    data = os.urandom(DISK_BYTES)

    def run() -> None:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    return steady_rate(DISK_BYTES, run, time.perf_counter, repeats=DISK_REPEATS) / 1e6


def measure(
    directory: Path | None = None,
    progress: Progress = lambda probe, done, total: None,
    engine: str = "numpy",
    thermal_seconds: int = thermal.SECONDS,
    root: Path | None = None,
) -> Measurement:
    """Run all probes, below two minutes with the usual ``thermal_seconds``; 0 leaves the load out.

    ``directory`` is where the disk is measured (the working one), ``engine`` runs the convolution and the rates,
    ``root`` is where the sensors are read. ``progress`` hears of each probe, each rate and each second of load.
    Raises ``ProfileError`` for an engine that is unknown or not installed, and for seconds below 0.
    """
    check_engine(engine)
    if thermal_seconds < 0:
        raise ProfileError(f"{thermal_seconds} s of load; give 0 for none, or some, such as {thermal.SECONDS}")
    # Read when the library is loaded: numpy must not have been imported before.
    for name, count in ONE_THREAD.items():
        os.environ.setdefault(name, count)
    # Each probe fills the field of its name: another probe is another line here and another field there.
    probes: list[tuple[str, Callable[[], float]]] = [
        ("usable_memory_bytes", usable_memory_bytes),  # first: the others take some
        ("cores", usable_cores),
        ("convolution_gflops", torch_convolution_gflops if engine == "torch" else convolution_gflops),
        ("memory_bandwidth_gbs", memory_bandwidth_gbs),
        ("disk_write_mbs", lambda: disk_write_mbs(directory or Path.cwd())),
    ]
    total = len(probes) + len(cases()) + thermal_seconds
    steps = itertools.count()

    def tell(probe: str) -> None:
        progress(probe, next(steps), total)

    found: dict[str, float] = {}
    for name, probe in probes:
        tell(name)
        found[name] = probe()
    rates: list[Rate] = []
    for kernel, dtype, density in cases():
        tell(f"rates {kernel} {dtype} {density:g}")
        rate = active_rate(engine, kernel, dtype, density)
        rates += [] if rate is None else [rate]
    # Last: a board that is warm would be slower at all else.
    heat = thermal.behaviour(thermal_seconds, root, lambda _: tell("thermal")) if thermal_seconds else None
    tell("")
    return Measurement(
        usable_memory_bytes=int(found["usable_memory_bytes"]),
        cores=int(found["cores"]),
        convolution_gflops=round(found["convolution_gflops"], 3),
        memory_bandwidth_gbs=round(found["memory_bandwidth_gbs"], 3),
        disk_write_mbs=round(found["disk_write_mbs"], 3),
        engine=engine,
        rates=tuple(rates),
        thermal=heat,
    )
