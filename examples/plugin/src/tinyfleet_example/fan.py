"""Fans: the slowest one that can be read (sysfs: hwmon)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import integers, text_or


def read(root: Path, options: Options) -> Reading | None:
    """Revolutions a minute. A fan that stands still is a warning: many boards stop theirs while they are cool."""
    fans = integers(root, "sys/class/hwmon/hwmon*/fan*_input")
    if not fans:
        return None
    slowest = min(fans, key=lambda path: fans[path])
    state = State.OK if fans[slowest] else State.WARNING
    return Reading(
        "fan", float(fans[slowest]), "rpm", state, text_or(slowest.with_name("name"), slowest.parent.name)
    )


SENSOR = Sensor("fan", read, figure="fan_rpm")
