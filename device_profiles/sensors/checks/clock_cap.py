"""Clock caps: whether a core may run as fast as it could (cpufreq)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import integer, integers

# Older kernels have a folder a core instead of one a group of cores.
_PLACES = ("sys/devices/system/cpu/cpufreq/policy*", "sys/devices/system/cpu/cpu[0-9]*/cpufreq")


def read(root: Path, options: Options) -> Reading | None:
    """Percent of the full clock that the most limited core is allowed."""
    for place in _PLACES:
        allowed = integers(root, f"{place}/scaling_max_freq")
        if allowed:
            full = {path: integer(path.with_name("cpuinfo_max_freq")) for path in allowed}
            worst = min(allowed, key=lambda path: allowed[path] / full[path])
            share = allowed[worst] / full[worst]
            note = f"{allowed[worst] / 1000:.0f} of {full[worst] / 1000:.0f} MHz"  # the files count in kHz
            return Reading("clock_cap", 100.0 * share, "%", State.WARNING if share < 1.0 else State.OK, note)
    return None


SENSOR = Sensor("clock_cap", read)
