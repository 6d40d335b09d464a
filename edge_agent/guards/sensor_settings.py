"""The part of ``agent.toml`` that is about the board's sensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from tinyfleet.device_profiles.limits import format_size, parse_size
from tinyfleet.device_profiles.sensors.read import check_names
from tinyfleet.device_profiles.sensors.sensor import Options
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import Settings

_DEFAULT = Options()
Percent = Annotated[float, Meta(ge=0.0, le=100.0)]


class SensorSettings(Settings, frozen=True):
    """Which sensors of the board are read, and at which values they warn."""

    disabled: Annotated[
        tuple[str, ...], Meta(description="sensors to leave alone, as `edge-agent sensors` names them")
    ] = ()
    temperature_warning_c: Annotated[float, Meta(description="degrees Celsius of the hottest zone")] = (
        _DEFAULT.temperature_warning_c
    )
    temperature_critical_c: Annotated[float, Meta(description="degrees at which the board is at risk")] = (
        _DEFAULT.temperature_critical_c
    )
    battery_warning_percent: Annotated[Percent, Meta(description="charge of the emptiest battery")] = (
        _DEFAULT.battery_warning_percent
    )
    battery_critical_percent: Annotated[Percent, Meta(description="charge at which the board may go off")] = (
        _DEFAULT.battery_critical_percent
    )
    swap_warning_percent: Annotated[Percent, Meta(description="part of the swap that is in use")] = (
        _DEFAULT.swap_warning_percent
    )
    disk_warning: Annotated[str, Meta(description="free space where the state directory is")] = format_size(
        _DEFAULT.disk_warning_bytes
    )
    disk_critical: Annotated[str, Meta(description="free space at which results may be lost")] = format_size(
        _DEFAULT.disk_critical_bytes
    )
    memory_warning: Annotated[str, Meta(description="memory that can be had")] = format_size(
        _DEFAULT.memory_warning_bytes
    )
    memory_critical: Annotated[str, Meta(description="memory with which no engine works")] = format_size(
        _DEFAULT.memory_critical_bytes
    )

    def options(self, state: Path | None = None) -> Options:
        """The same as the sensors take it; ``state`` is on the disk that counts. Raises ``ConfigError``."""
        try:
            check_names(self.disabled)
            return Options(
                disk=state,
                temperature_warning_c=self.temperature_warning_c,
                temperature_critical_c=self.temperature_critical_c,
                battery_warning_percent=self.battery_warning_percent,
                battery_critical_percent=self.battery_critical_percent,
                swap_warning_percent=self.swap_warning_percent,
                disk_warning_bytes=parse_size(self.disk_warning),
                disk_critical_bytes=parse_size(self.disk_critical),
                memory_warning_bytes=parse_size(self.memory_warning),
                memory_critical_bytes=parse_size(self.memory_critical),
            )
        except ValueError as error:
            raise ConfigError(f"sensors: {error}") from None
