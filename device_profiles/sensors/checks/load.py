"""Load: runnable processes, mean of the last minute (proc(5), loadavg)."""

from __future__ import annotations

import os
from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import text

_WARNING_PER_CORE = 2.0  # a worker that takes every core makes 1; beyond this others compete with it


def read(root: Path, options: Options) -> Reading | None:
    """Processes; those that wait for a disk count too."""
    path = root / "proc/loadavg"
    if not path.exists():
        return None
    load, cores = float(text(path).split()[0]), os.cpu_count() or 1
    state = State.WARNING if load > _WARNING_PER_CORE * cores else State.OK
    return Reading("load", load, "", state, f"on {cores} cores")


SENSOR = Sensor("load", read, figure="load_1m")
