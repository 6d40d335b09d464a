"""How a board is doing now: free memory and disk, heat, throttling, battery, load.

One sensor is one short function in ``SENSORS``. What a board does not have is left out, and a sensor
that fails never stops the others. Read from files alone: no service and no tool of a vendor is asked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from device_profiles.emulated import sysfs_root
from device_profiles.limits import usable_memory_bytes

logger = logging.getLogger(__name__)

# (where /sys and /proc are, the directory whose disk counts) -> the figure, or None where there is no such sensor
Sensor = Callable[[Path, Path], float | None]


def free_memory_bytes(root: Path, disk: Path) -> float | None:
    """What can be had now, the control groups around this process counted."""
    # A faked root may have /sys alone: memory is the real one then.
    return float(usable_memory_bytes(root if (root / "proc").exists() else Path("/")))


def free_disk_bytes(root: Path, disk: Path) -> float | None:
    """What a user other than root may still write."""
    figures = os.statvfs(disk)
    return float(figures.f_bavail * figures.f_frsize)


def load_1m(root: Path, disk: Path) -> float | None:
    """Runnable processes, mean of the last minute (proc(5), loadavg)."""
    path = root / "proc/loadavg"
    return float(path.read_text(encoding="ascii").split()[0]) if path.exists() else None


def temperature_c(root: Path, disk: Path) -> float | None:
    """The hottest thermal zone; the kernel tells millidegrees (sysfs-class-thermal)."""
    zones = _numbers(root, "sys/class/thermal/thermal_zone*/temp")
    return max(zones) / 1000.0 if zones else None


def battery_percent(root: Path, disk: Path) -> float | None:
    """The emptiest battery (sysfs-class-power)."""
    return min(_numbers(root, "sys/class/power_supply/*/capacity"), default=None)


def throttled_bits(root: Path, disk: Path) -> float | None:
    """Raspberry Pi firmware's bits: 0 under-voltage, 1 capped, 2 throttled, 3 soft limit; 16-19 since the boot.

    The driver prints hexadecimal digits without a prefix. Kernels that have dropped this file still
    tell the first bit: see ``under_voltage``.
    """
    for path in sorted(root.glob("sys/devices/platform/soc*/soc*:firmware/get_throttled")):
        return float(int(path.read_text(encoding="ascii"), 16))
    return None


def under_voltage(root: Path, disk: Path) -> float | None:
    """1 while a Raspberry Pi's supply is too weak, else 0 (raspberrypi-hwmon)."""
    for name in sorted(root.glob("sys/class/hwmon/hwmon*/name")):
        if name.read_text(encoding="ascii").strip() == "rpi_volt":
            return float(int((name.parent / "in0_lcrit_alarm").read_text(encoding="ascii")))
    return None


SENSORS: Mapping[str, Sensor] = {
    sensor.__name__: sensor
    for sensor in (
        free_memory_bytes,
        free_disk_bytes,
        load_1m,
        temperature_c,
        battery_percent,
        throttled_bits,
        under_voltage,
    )
}


def read_health(
    root: Path | None = None, disk: Path | None = None, sensors: Mapping[str, Sensor] = SENSORS
) -> dict[str, float]:
    """All figures that this board has, by name; ``disk`` is a directory on the disk that counts (``root``).

    Without ``root`` the real files are read, or those that an emulation fakes.
    """
    root = sysfs_root() if root is None else root
    health: dict[str, float] = {}
    for name, sensor in sensors.items():
        try:
            value = sensor(root, root if disk is None else disk)
        except Exception as error:  # noqa: BLE001 - whatever a driver answers, the other sensors are read
            logger.debug("sensor %s: %s", name, error)
            continue
        if value is not None:
            health[name] = value
    return health


def _numbers(root: Path, pattern: str) -> list[float]:
    """Numbers in the files that match; one that is empty or that its driver refuses counts as absent."""
    found = []
    for path in sorted(root.glob(pattern)):
        try:
            found.append(float(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return found
