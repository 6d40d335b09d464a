"""How the board is doing: numbers that travel with each heartbeat. What a board does not have is left out."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import psutil


def read(state: Path, root: Path = Path("/")) -> dict[str, float]:
    """Free memory and disk in bytes, load, hottest zone in degrees Celsius, battery in percent."""
    health = {
        "free_memory_bytes": float(psutil.virtual_memory().available),
        "free_disk_bytes": float(shutil.disk_usage(state).free),
        "load_1m": psutil.getloadavg()[0],
    }
    for name, value in (("temperature_c", _temperature(root)), ("battery_percent", _battery(root))):
        if value is not None:
            health[name] = value
    return health


def _temperature(root: Path) -> float | None:
    """The kernel's thermal zones tell millidegrees (sysfs-class-thermal)."""
    zones = [
        value for path in root.glob("sys/class/thermal/thermal_zone*/temp") if (value := _number(path)) is not None
    ]
    return max(zones) / 1000.0 if zones else None


def _battery(root: Path) -> float | None:
    """The emptiest of the batteries (sysfs-class-power)."""
    levels = [
        value for path in root.glob("sys/class/power_supply/*/capacity") if (value := _number(path)) is not None
    ]
    return min(levels) if levels else None


def _number(path: Path) -> float | None:
    """A sensor that is there but cannot be read (a driver's error, an empty zone) counts as absent."""
    with contextlib.suppress(OSError, ValueError):
        return float(path.read_text(encoding="ascii"))
    return None
