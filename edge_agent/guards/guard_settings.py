"""The part of ``agent.toml`` that is about what pauses training."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tinyfleet.device_profiles.limits import format_size, parse_size
from tinyfleet.device_profiles.sensors.sensor import Options
from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.edge_agent.guards.guards import NAMES, GuardLimits
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import Settings

_DEFAULT = GuardLimits()
Seconds = Annotated[float, Meta(ge=0.0)]


class GuardSettings(Settings, frozen=True):
    """What pauses training for the board's sake. Temperature and battery pause at the sensors' critical values."""

    disabled: Annotated[
        tuple[str, ...],
        Meta(description="guards that never pause: battery, disk, temperature, throttling, under_voltage"),
    ] = ()
    temperature_gap_c: Annotated[
        float,
        Meta(ge=0.0, description="resume so far below sensors.temperature_critical_c; 0: below the warning one"),
    ] = 0.0
    soft_throttling: Annotated[
        bool, Meta(description="pause also where a Pi's firmware only caps the clock or meets its soft limit")
    ] = _DEFAULT.soft_throttling
    least_disk: Annotated[
        str, Meta(description="free space where the state directory is, below which to pause")
    ] = format_size(_DEFAULT.least_disk_bytes)
    resume_after_s: Annotated[Seconds, Meta(description="seconds all must be well before training goes on")] = (
        _DEFAULT.resume_after_s
    )
    least_pause_s: Annotated[Seconds, Meta(description="seconds that every pause lasts at least")] = (
        _DEFAULT.least_pause_s
    )

    def limits(self, sensors: Options) -> GuardLimits:
        """The same as the guards take it; ``sensors`` are the board's options. Raises ``ConfigError``."""
        for name in self.disabled:
            if name not in NAMES:
                raise ConfigError(f"guards: guard {name!r} is unknown; {hint(name, NAMES)}")
        try:
            least_disk = parse_size(self.least_disk)
        except ValueError as error:
            raise ConfigError(f"guards: least_disk: {error}") from None
        critical, gap = sensors.temperature_critical_c, self.temperature_gap_c
        return GuardLimits(
            disabled=frozenset(self.disabled),
            temperature_pause_c=critical,
            temperature_resume_c=critical - gap if gap else sensors.temperature_warning_c,
            battery_pause_percent=sensors.battery_critical_percent,
            battery_resume_percent=sensors.battery_warning_percent,
            least_disk_bytes=least_disk,
            soft_throttling=self.soft_throttling,
            resume_after_s=self.resume_after_s,
            least_pause_s=self.least_pause_s,
        )
