"""Power mode: which one a Jetson is set to (nvpmodel). A choice of its owner, so never a fault."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor
from tinyfleet.device_profiles.sensors.sysfs import text


def read(root: Path, options: Options) -> Reading | None:
    """The mode's number, with its name as the note: 10 W or 5 W on a Nano, say."""
    path = root / "var/lib/nvpmodel/status"  # "pmode:0002 fmode:quiet"
    if not path.exists():
        return None
    content = text(path)
    match = re.search(r"pmode:\s*(\d+)", content)
    if match is None:
        raise ValueError(f"{path} holds {content[:40]!r}, no power mode")
    mode = int(match[1])
    return Reading("power_mode", float(mode), note=_mode_name(root, mode))


def _mode_name(root: Path, mode: int) -> str:
    with contextlib.suppress(OSError, ValueError):  # the number says enough
        lines = text(root / "etc/nvpmodel.conf")
        match = re.search(rf"<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+)", lines)
        return match[1] if match else ""
    return ""


SENSOR = Sensor("power_mode", read)
