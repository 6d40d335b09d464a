"""Disk: what may still be written where the state directory is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State, falling


def read(root: Path, options: Options) -> Reading:
    """Bytes that a user other than root may still write."""
    figures = os.statvfs(options.disk or root)
    free = float(figures.f_bavail * figures.f_frsize)
    state = falling(free, options.disk_warning_bytes, options.disk_critical_bytes)
    reading = Reading("disk", free, "bytes", state, f"of {figures.f_blocks * figures.f_frsize / 1e6:.0f} MB")
    # The kernel turns a failing SD card read-only; a root that is so by design is nobody's state directory.
    if options.disk is not None and figures.f_flag & os.ST_RDONLY:
        return replace(reading, state=State.CRITICAL, note="mounted read-only: see dmesg, the card may be failing")
    return reading


SENSOR = Sensor("disk", read, figure="free_disk_bytes")
