"""Swap: how much of it is in use. A step that swaps takes many times as long, and wears out an SD card."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import text


def read(root: Path, options: Options) -> Reading | None:
    """Percent in use; None where there is no swap (proc(5), meminfo)."""
    path = root / "proc/meminfo"
    if not path.exists():
        return None
    lines = dict(line.partition(":")[::2] for line in text(path).splitlines())
    if "SwapTotal" not in lines:
        return None
    total, free = (int(lines[key].split()[0]) * 1024 for key in ("SwapTotal", "SwapFree"))
    if not total:
        return None
    percent = 100.0 * (total - free) / total
    state = State.WARNING if percent >= options.swap_warning_percent else State.OK
    return Reading("swap", percent, "%", state, f"{(total - free) / 1e6:.0f} of {total / 1e6:.0f} MB")


SENSOR = Sensor("swap", read)
