"""Memory: what can be had now, the control groups around this process counted."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.limits import usable_memory_bytes
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, falling


def read(root: Path, options: Options) -> Reading:
    """Bytes."""
    # A faked root may have /sys alone: memory is the real one then.
    free = float(usable_memory_bytes(root if (root / "proc").exists() else Path("/")))
    state = falling(free, options.memory_warning_bytes, options.memory_critical_bytes)
    return Reading("memory", free, "bytes", state)


SENSOR = Sensor("memory", read, figure="free_memory_bytes")
