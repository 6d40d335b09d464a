"""Heat: the hottest thermal zone (sysfs-class-thermal)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, rising
from tinyfleet.device_profiles.sensors.sysfs import integers, text_or

# The Jetson's power controller has no sensor: its zone says 100 degrees for ever.
_DUMMIES = ("PMIC-Die",)


def read(root: Path, options: Options) -> Reading | None:
    """Degrees Celsius; the kernel tells thousandths."""
    zones = {
        path: millidegrees
        for path, millidegrees in integers(root, "sys/class/thermal/thermal_zone*/temp").items()
        if text_or(path.with_name("type"), "") not in _DUMMIES
    }
    if not zones:
        return None
    hottest = max(zones, key=lambda path: zones[path])
    celsius = zones[hottest] / 1000.0
    state = rising(celsius, options.temperature_warning_c, options.temperature_critical_c)
    return Reading("temperature", celsius, "°C", state, text_or(hottest.with_name("type"), hottest.parent.name))


SENSOR = Sensor("temperature", read, figure="temperature_c")
