"""Battery: the emptiest one that feeds the board (sysfs-class-power)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State, falling
from tinyfleet.device_profiles.sensors.sysfs import integers, text_or


def read(root: Path, options: Options) -> Reading | None:
    """Percent. Low is no fault while it is being charged."""
    charges = {
        path: percent
        for path, percent in integers(root, "sys/class/power_supply/*/capacity").items()
        if text_or(path.with_name("scope"), "System") != "Device"  # a mouse's, a pen's
    }
    if not charges:
        return None
    emptiest = min(charges, key=lambda path: charges[path])
    percent = float(charges[emptiest])
    status = text_or(emptiest.with_name("status"), "Unknown")
    state = falling(percent, options.battery_warning_percent, options.battery_critical_percent)
    if status in ("Charging", "Full"):
        state = State.OK
    return Reading("battery", percent, "%", state, f"{emptiest.parent.name} {status.lower()}")


SENSOR = Sensor("battery", read, figure="battery_percent")
