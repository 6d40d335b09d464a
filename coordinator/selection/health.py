"""What a device's heartbeat says of its health: warnings to show, and what keeps it from training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tinyfleet.device_profiles.sensors.firmware import CLOCK_CAPPED, SOFT_LIMIT, THROTTLED, UNDER_VOLTAGE
from tinyfleet.device_profiles.sensors.sensor import Options, State, falling, rising

_LIMITS = Options()
"""The sensors' own limits, as shipped: a board may have been told others, and pauses by those."""


def critical(health: Mapping[str, float]) -> str:
    """Why the device is to be spared; empty where nothing forbids a task."""
    return "; ".join(text for state, text in _findings(health) if state is State.CRITICAL)


def warnings(health: Mapping[str, float]) -> list[str]:
    """Everything that is not as it should be, the critical included."""
    return [text for _, text in _findings(health)]


def _findings(health: Mapping[str, float]) -> Iterator[tuple[State, str]]:
    limits = _LIMITS
    if (celsius := health.get("temperature_c")) is not None:
        state = rising(celsius, limits.temperature_warning_c, limits.temperature_critical_c)
        if state is not State.OK:
            limit = limits.temperature_critical_c if state is State.CRITICAL else limits.temperature_warning_c
            yield state, f"the temperature is {celsius:.0f} °C, the limit {limit:g}"
    if (percent := health.get("battery_percent")) is not None:
        state = falling(percent, limits.battery_warning_percent, limits.battery_critical_percent)
        if state is not State.OK:
            yield state, f"the battery is at {percent:.0f} %"
    for figure, name, warning, worst in (
        ("free_memory_bytes", "memory", limits.memory_warning_bytes, limits.memory_critical_bytes),
        ("free_disk_bytes", "disk", limits.disk_warning_bytes, limits.disk_critical_bytes),
    ):
        if (free := health.get(figure)) is not None:
            state = falling(free, warning, worst)
            if state is not State.OK:
                yield state, f"{free / 1e6:.0f} MB of {name} are free"
    yield from _power(int(health.get("throttled_bits", 0)), health.get("under_voltage", 0.0) >= 1.0)


def _power(bits: int, alarm: bool) -> Iterator[tuple[State, str]]:
    if alarm or bits & UNDER_VOLTAGE:
        yield State.CRITICAL, "the voltage is too low"
    if bits & THROTTLED:
        yield State.CRITICAL, "the firmware throttles the processor"
    elif bits & (CLOCK_CAPPED | SOFT_LIMIT):
        yield State.WARNING, "the firmware caps the clock"
