"""Under-voltage: a Raspberry Pi's supply is too weak now (raspberrypi-hwmon)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import integer, text_or


def read(root: Path, options: Options) -> Reading | None:
    """1 while the supply is too weak, else 0."""
    for name in sorted(root.glob("sys/class/hwmon/hwmon*/name")):
        if text_or(name, "") == "rpi_volt":
            alarm = integer(name.with_name("in0_lcrit_alarm"))
            if alarm:
                return Reading(
                    "under_voltage", 1.0, state=State.CRITICAL, note="use the board's own supply and a short cable"
                )
            return Reading("under_voltage", 0.0)
    return None


SENSOR = Sensor("under_voltage", read, figure="under_voltage")
