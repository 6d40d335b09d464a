"""When training has to pause for the board's sake, and when it may go on.

A guard trips at one value and clears at another, and only when it has been clear for some seconds: a board
that cools because it pauses would otherwise start and stop all the time. A sensor that is absent, disabled or
cannot be read trips nothing, and counts as clear: what cannot be known must not hold a task for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from tinyfleet.device_profiles.sensors.firmware import CLOCK_CAPPED, SOFT_LIMIT, THROTTLED, UNDER_VOLTAGE
from tinyfleet.device_profiles.sensors.read import names as sensor_names
from tinyfleet.device_profiles.sensors.read import read_all
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, State, shown

logger = logging.getLogger(__name__)

# Free space must be so many times the least before training goes on.
DISK_MARGIN = 1.5

Readings = Mapping[str, Reading]
Read = Callable[[], Iterable[Reading]]


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """At what the guards pause and resume; times in seconds."""

    disabled: frozenset[str] = frozenset()
    temperature_pause_c: float = 85.0
    temperature_resume_c: float = 75.0
    battery_pause_percent: float = 10.0
    battery_resume_percent: float = 30.0
    least_disk_bytes: int = 100_000_000
    soft_throttling: bool = False
    resume_after_s: float = 10.0
    least_pause_s: float = 30.0


@dataclass(frozen=True, slots=True)
class PauseVerdict:
    """Whether training is to be paused now, and a sentence for each guard that has tripped."""

    paused: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardFinding:
    """What one guard says of the readings: ``fault`` (value and limit) while it has to pause."""

    fault: str = ""
    clear: bool = True  # neither a fault nor between the two values


# -- the guards ---------------------------------------------------------------------------


def _temperature(readings: Readings, limits: GuardLimits) -> GuardFinding:
    reading = readings.get("temperature")
    if reading is None or reading.value is None:
        return GuardFinding()
    if reading.value >= limits.temperature_pause_c:
        place = f" ({reading.note})" if reading.note else ""
        return GuardFinding(
            f"the temperature is {shown(reading)}{place}, the limit {limits.temperature_pause_c:g} °C", False
        )
    return GuardFinding(clear=reading.value < limits.temperature_resume_c)


def _under_voltage(readings: Readings, limits: GuardLimits) -> GuardFinding:
    alarm = readings.get("under_voltage")
    if (alarm is not None and alarm.value) or _throttled_bits(readings) & UNDER_VOLTAGE:
        return GuardFinding("the supply's voltage is too low: the firmware's alarm is 1, the limit 0", False)
    return GuardFinding()


def _throttling(readings: Readings, limits: GuardLimits) -> GuardFinding:
    harmful = THROTTLED | (CLOCK_CAPPED | SOFT_LIMIT if limits.soft_throttling else 0)
    bits = _throttled_bits(readings)
    if bits & harmful:
        return GuardFinding(
            f"the firmware slows the processor: its bits are {bits:#x}, and none of {harmful:#x} may be set",
            False,
        )
    return GuardFinding()


def _throttled_bits(readings: Readings) -> int:
    reading = readings.get("throttling")
    return 0 if reading is None or reading.value is None else int(reading.value)


def _battery(readings: Readings, limits: GuardLimits) -> GuardFinding:
    reading = readings.get("battery")
    if reading is None or reading.value is None:
        return GuardFinding()
    # The sensor's state, and not the charge alone: it is OK while the battery is being charged.
    if reading.state is State.CRITICAL:
        return GuardFinding(
            f"the battery has {shown(reading)} ({reading.note}), the limit is {limits.battery_pause_percent:g} %",
            False,
        )
    return GuardFinding(clear=reading.state is State.OK)


def _disk(readings: Readings, limits: GuardLimits) -> GuardFinding:
    reading = readings.get("disk")
    if reading is None or reading.value is None:
        return GuardFinding()
    if reading.value < limits.least_disk_bytes:
        limit = shown(replace(reading, value=float(limits.least_disk_bytes)))
        return GuardFinding(
            f"the disk has {shown(reading)} free, the limit is {limit}: results could not be kept", False
        )
    return GuardFinding(clear=reading.value > DISK_MARGIN * limits.least_disk_bytes)


def _wish(name: str, limits: GuardLimits) -> str:
    """What must hold for training to go on."""
    return {
        "battery": f"at least {limits.battery_resume_percent:g} % or a charger",
        "disk": f"more than {DISK_MARGIN * limits.least_disk_bytes / 1e6:.0f} MB",
        "temperature": f"less than {limits.temperature_resume_c:g} °C",
        "throttling": "a full clock",
        "under_voltage": "enough voltage",
    }[name]


_GUARDS: dict[str, Callable[[Readings, GuardLimits], GuardFinding]] = {
    "battery": _battery,
    "disk": _disk,
    "temperature": _temperature,
    "throttling": _throttling,
    "under_voltage": _under_voltage,
}
NAMES = tuple(_GUARDS)


# -- all of them --------------------------------------------------------------------------


@dataclass(slots=True)
class _Trip:
    """One guard's pause: since when, why, and since when what caused it is over (None: it is not)."""

    since: float
    reason: str
    clear_since: float | None = None


class Guards:
    """Asked about every second while a task is under way. ``paused_s``: seconds the current task has paused.

    ``read`` gives the sensors' readings (``reader``); ``clock`` is monotonic seconds.
    """

    def __init__(self, limits: GuardLimits, read: Read, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._read = read
        self._clock = clock
        self._trips: dict[str, _Trip] = {}
        self._counted = clock()
        self.paused_s = 0.0

    def begin(self) -> None:
        """A new task. Guards that have tripped stay so: the board is as hot as it was for the last one."""
        self.paused_s = 0.0
        self._counted = self._clock()

    def check(self) -> PauseVerdict:
        """Read the sensors. A reason stays as it was when its guard tripped, so that it is reported once."""
        readings = {reading.name: reading for reading in self._read()}
        now = self._clock()
        if self._trips:
            self.paused_s += now - self._counted
        self._counted = now
        for name, guard in _GUARDS.items():
            if name not in self._limits.disabled:
                self._mind(name, guard(readings, self._limits), now)
        return PauseVerdict(bool(self._trips), tuple(trip.reason for trip in self._trips.values()))

    def _mind(self, name: str, finding: GuardFinding, now: float) -> None:
        trip = self._trips.get(name)
        if trip is None:
            if finding.fault:
                after = self._limits.resume_after_s
                reason = f"{finding.fault}; training resumes after {after:g} s with {_wish(name, self._limits)}"
                self._trips[name] = _Trip(now, reason)
                logger.warning("pause: %s", reason)
        elif not finding.clear:
            trip.clear_since = None
        else:
            if trip.clear_since is None:
                trip.clear_since = now
            long_enough = now - trip.since >= self._limits.least_pause_s
            if long_enough and now - trip.clear_since >= self._limits.resume_after_s:
                del self._trips[name]
                logger.info("the %s guard's pause is over after %.0f s", name.replace("_", "-"), now - trip.since)


def reader(disabled: Iterable[str], options: Options) -> Read:
    """Reads the sensors that guards look at, but those in ``disabled``.

    Files alone, no vendor's tool: the supervisor may not wait for one.
    """
    left_out = (set(sensor_names()) - set(NAMES)) | set(disabled)
    return partial(read_all, disabled=left_out, options=replace(options, tools=False))
