"""Fake /sys and /proc trees."""

from __future__ import annotations

from pathlib import Path

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
ZONE = "sys/class/thermal/thermal_zone{}"
HWMON = "sys/class/hwmon/hwmon{}"
BATTERY = "sys/class/power_supply/{}"
POLICY = "sys/devices/system/cpu/cpufreq/policy{}"


def put(root: Path, path: str, content: str | bytes) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def raspberry_pi(root: Path) -> Path:
    """A warm Pi with a weak supply, two batteries and a capped clock."""
    put(
        root,
        "proc/meminfo",
        "MemTotal: 500000 kB\nMemFree: 1 kB\nMemAvailable:  300000 kB\nSwapTotal: 100000 kB\nSwapFree: 90000 kB\n",
    )
    put(root, "proc/loadavg", "1.25 0.90 0.40 2/345 6789\n")
    put(root, f"{ZONE.format(0)}/temp", "48312\n")
    put(root, f"{ZONE.format(1)}/temp", "61000\n")
    put(root, f"{ZONE.format(1)}/type", "cpu-thermal\n")
    put(root, THROTTLED, "50005\n")
    put(root, f"{HWMON.format(0)}/name", "cpu_thermal\n")
    put(root, f"{HWMON.format(1)}/name", "rpi_volt\n")
    put(root, f"{HWMON.format(1)}/in0_lcrit_alarm", "1\n")
    put(root, f"{BATTERY.format('BAT0')}/capacity", "83\n")
    put(root, f"{BATTERY.format('BAT1')}/capacity", "41\n")
    put(root, f"{POLICY.format(0)}/scaling_max_freq", "600000\n")
    put(root, f"{POLICY.format(0)}/cpuinfo_max_freq", "1000000\n")
    return root
