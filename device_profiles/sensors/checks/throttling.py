"""Throttling: what a Raspberry Pi's firmware holds back, and why."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tinyfleet.device_profiles.sensors.firmware import CLOCK_CAPPED, SOFT_LIMIT, THROTTLED, UNDER_VOLTAGE
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.sensors.sysfs import text

_MEANINGS = {
    UNDER_VOLTAGE: "under-voltage",
    CLOCK_CAPPED: "clock capped",
    THROTTLED: "throttled",
    SOFT_LIMIT: "soft temperature limit",
}
_CRITICAL_NOW = UNDER_VOLTAGE | THROTTLED
_TOOLS = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")
_TOOL_TIMEOUT_S = 2.0


def read(root: Path, options: Options) -> Reading | None:
    """The firmware's bits as one number."""
    bits = _bits(root, options.tools)
    if bits is None:
        return None
    now = [meaning for bit, meaning in _MEANINGS.items() if bits & bit]
    before = [meaning for bit, meaning in _MEANINGS.items() if (bits >> 16) & bit]
    parts = [f"{when}: {', '.join(found)}" for when, found in (("now", now), ("since boot", before)) if found]
    state = State.CRITICAL if bits & _CRITICAL_NOW else State.WARNING if parts else State.OK
    return Reading("throttling", float(bits), "bits", state, "; ".join(parts))


def _bits(root: Path, tools: bool) -> int | None:
    # The driver prints hexadecimal digits without a prefix. Newer kernels have dropped this file.
    for path in sorted(root.glob("sys/devices/platform/soc*/soc*:firmware/get_throttled")):
        return int(text(path), 16)
    for tool in (root / name for name in _TOOLS) if tools else ():
        if tool.exists():
            answer = subprocess.run(
                [tool, "get_throttled"], capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=True
            )
            return int(answer.stdout.partition("throttled=")[2], 16)
    return None


SENSOR = Sensor("throttling", read, figure="throttled_bits")
