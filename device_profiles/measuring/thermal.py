"""What is left of a board's speed once it is warm: all usable cores under load, one sample a second."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.emulated import sysfs_root
from tinyfleet.device_profiles.measuring.burn import COUNTER, COUNTER_FORMAT, PRODUCT_FLOPS
from tinyfleet.device_profiles.measuring.timing import ONE_THREAD
from tinyfleet.device_profiles.profile import ProfileError, Thermal
from tinyfleet.device_profiles.sensors.read import names, read_all
from tinyfleet.device_profiles.sensors.sysfs import integers

SECONDS = 60
# numpy is loaded in every process before the clock starts: seconds on a slow card.
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
# Bits of the firmware that slow the processor: clock capped, throttled, soft temperature limit.
_SLOWING_BITS = 0b1110
_SENSORS = ("clock_cap", "temperature", "throttling")
_CLOCKS = ("sys/devices/system/cpu/cpufreq/policy*", "sys/devices/system/cpu/cpu[0-9]*/cpufreq")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the sensors. None: no such sensor, or it could not be read."""

    celsius: float | None
    clock_mhz: float | None
    clock_cap_percent: float | None
    throttled_bits: int | None
    gflops: float = 0.0  # since the sample before, of all cores


def behaviour(
    seconds: int = SECONDS,
    root: Path | None = None,
    tell: Callable[[int], None] = lambda second: None,
) -> Thermal:
    """Load all usable cores for ``seconds``; ``tell`` hears of each that has passed.

    ``root`` is where /sys is; without it as for the sensors. The load is processes of this interpreter, ended when
    this returns or raises. Raises ``ProfileError`` where they do not start.
    """
    place, cores = sysfs_root() if root is None else root, usable_cores()
    before = look(place)
    samples: list[Sample] = []
    with _load(cores) as products:
        start = last = time.monotonic()
        done = products()
        for second in range(1, seconds + 1):
            tell(second - 1)
            time.sleep(max(0.0, start + second - time.monotonic()))
            now, count = time.monotonic(), products()
            samples.append(look(place, (count - done) * PRODUCT_FLOPS / (now - last) / 1e9))
            last, done = now, count
    return summary(before, samples, cores)


def summary(before: Sample, samples: Sequence[Sample], cores: int) -> Thermal:
    """What the samples, one a second and at least one, say together; ``before`` is without load."""
    quarter = max(1, len(samples) // 4)
    first, last = (sum(s.gflops for s in part) / quarter for part in (samples[:quarter], samples[-quarter:]))
    heat = [s.celsius for s in (before, *samples) if s.celsius is not None]
    clocks = [s.clock_mhz for s in samples if s.clock_mhz is not None]
    return Thermal(
        seconds=len(samples),
        cores=cores,
        gflops=round(last, 3),
        sustained_share=round(last / first, 3) if first > 0 else 0.0,
        start_celsius=before.celsius,
        peak_celsius=max(heat, default=None),
        start_clock_mhz=next(iter(clocks), None),
        lowest_clock_mhz=min(clocks, default=None),
        throttled=_throttled(before, samples),
    )


def _throttled(before: Sample, samples: Sequence[Sample]) -> bool | None:
    bits = [s.throttled_bits for s in samples if s.throttled_bits is not None]
    caps = [s.clock_cap_percent for s in (before, *samples) if s.clock_cap_percent is not None]
    if not bits and not caps:
        return None
    # A cap that was there before, set by a person, is none of the heat's.
    return any(value & _SLOWING_BITS for value in bits) or any(cap < caps[0] for cap in caps)


def look(root: Path, gflops: float = 0.0) -> Sample:
    """Read the sensors that heat moves, below ``root``."""
    found = {r.name: r.value for r in read_all(root, [name for name in names() if name not in _SENSORS])}
    bits = found.get("throttling")
    return Sample(
        celsius=found.get("temperature"),
        clock_mhz=_clock_mhz(root),
        clock_cap_percent=found.get("clock_cap"),
        throttled_bits=None if bits is None else int(bits),
        gflops=gflops,
    )


def _clock_mhz(root: Path) -> float | None:
    """Mean over the groups of cores; the files count in kHz."""
    for place in _CLOCKS:
        with contextlib.suppress(OSError, ValueError):
            clocks = integers(root, f"{place}/scaling_cur_freq")
            if clocks:
                return round(sum(clocks.values()) / len(clocks) / 1000.0, 1)
    return None


@contextlib.contextmanager
def _load(cores: int) -> Iterator[Callable[[], int]]:
    """Busy processes, one a core; yields how many products they have done together, once all have begun."""
    descriptor = os.memfd_create("burn")
    children: list[subprocess.Popen[bytes]] = []
    try:
        os.ftruncate(descriptor, cores * COUNTER.size)
        counts = memoryview(mmap.mmap(descriptor, 0)).cast(COUNTER_FORMAT)
        for index in range(cores):
            command = [
                sys.executable,
                "-m",
                "tinyfleet.device_profiles.measuring.burn",
                str(descriptor),
                str(index),
            ]
            environment = {**os.environ, **ONE_THREAD}
            children.append(subprocess.Popen(command, pass_fds=[descriptor], env=environment))

        def products() -> int:
            ended = next((child for child in children if child.poll() is not None), None)
            if ended is not None:
                raise ProfileError(
                    f"a process of the load ended with {ended.returncode}; free memory, or leave the load out"
                )
            return sum(counts)

        _wait_for_all(counts, products)
        yield products
    finally:
        _end(children)
        os.close(descriptor)


def _wait_for_all(counts: Sequence[int], products: Callable[[], int]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not all(counts):
        products()
        if time.monotonic() > deadline:
            raise ProfileError(f"the load did not start within {START_TIMEOUT_S:g} s; try again on a quiet board")
        time.sleep(0.01)


def _end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
