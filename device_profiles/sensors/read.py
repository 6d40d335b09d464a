"""Reads the sensors: every module of ``checks`` is one, and others add more; none that fails stops another."""

from __future__ import annotations

import functools
import importlib
import logging
import math
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from tinyfleet.device_profiles.emulated import sysfs_root
from tinyfleet.device_profiles.plugins import Door
from tinyfleet.device_profiles.sensors import checks
from tinyfleet.device_profiles.sensors.sensor import Options, Reading, Sensor, State
from tinyfleet.device_profiles.suggestions import hint

logger = logging.getLogger(__name__)

_DEFAULTS = Options()


class UnknownSensor(ValueError):
    """A sensor's name is not known; the message tells the nearest."""

    exit_code = 2


@functools.cache
def ours() -> tuple[str, ...]:
    """Our sensors, sorted: the modules of ``checks``. None is imported for this."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(checks.__path__)))


def _sensor(name: str, given: object) -> Sensor:
    if not isinstance(given, Sensor) or given.name != name:
        raise TypeError(f"it is {given!r}; give a Sensor called {name!r}")
    return given


DOOR = Door("tinyfleet.sensors", ours, _sensor)


def names() -> tuple[str, ...]:
    """All sensors: ours, then those of other distributions. None is imported for this."""
    return (*ours(), *DOOR.names())


def check_names(given: Iterable[str]) -> None:
    """Raise ``UnknownSensor`` for the first name that is no sensor's."""
    for name in given:
        if name not in ours() and name not in names():
            raise UnknownSensor(f"sensor {name!r} is unknown; {hint(name, names())}")


def load(name: str) -> Sensor:
    """The sensor called ``name``. Raises whatever importing ours raises; of others' ``PluginError``."""
    if name in ours():
        return _sensor(name, importlib.import_module(f"{checks.__name__}.{name}").SENSOR)
    sensor = DOOR.load(name)
    if sensor is None:
        raise UnknownSensor(f"sensor {name!r} is unknown; {hint(name, names())}")
    return sensor


def read_all(root: Path | None = None, disabled: Iterable[str] = (), options: Options = _DEFAULTS) -> list[Reading]:
    """What every sensor of this board says, by name; those in ``disabled`` are not even imported.

    ``root`` is where /sys and /proc are; without it the real ones are read, or those that an emulation fakes.
    Raises ``UnknownSensor`` for a name in ``disabled``.
    """
    return [reading for _, reading in _readings(root, disabled, options)]


def read_health(
    root: Path | None = None, disabled: Iterable[str] = (), options: Options = _DEFAULTS
) -> dict[str, float]:
    """The figures of a heartbeat by name; what this board lacks or does not tell is left out.

    Files alone are read: no tool is started, since a heartbeat may not wait for one.
    """
    found = _readings(root, disabled, replace(options, tools=False), figures_only=True)
    return {figure: reading.value for figure, reading in found if reading.value is not None}


def _readings(
    root: Path | None, disabled: Iterable[str], options: Options, *, figures_only: bool = False
) -> Iterator[tuple[str, Reading]]:
    """Pairs (heartbeat's figure, reading); ``figures_only``: what no heartbeat tells is not even read."""
    place = sysfs_root() if root is None else root
    left_out = frozenset(disabled)
    check_names(sorted(left_out))
    for name in names():
        if name in left_out:
            continue
        figure = ""
        try:
            sensor = load(name)
            figure = sensor.figure
            if figures_only and not figure:
                continue
            reading = sensor.read(place, options)
            if reading is not None and reading.value is not None and not math.isfinite(reading.value):
                raise ValueError(f"{reading.value} is not a number")
        except Exception as error:  # noqa: BLE001  whatever a driver answers, the other sensors are read
            logger.debug("sensor %s: %s", name, error)
            reading = Reading(name, None, state=State.UNKNOWN, note=f"{type(error).__name__}: {error}")
        if reading is not None:
            yield figure, reading
