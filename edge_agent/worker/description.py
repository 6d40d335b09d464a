"""What the worker finds out about its board, since the supervisor loads neither engines nor data."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tinyfleet.edge_agent.config import AgentDataSettings
from tinyfleet.edge_agent.worker.commands import DescribeCommand, Described
from tinyfleet.fedcore.settings import convert

if TYPE_CHECKING:
    from tinyfleet.device_profiles.profile import DeviceProfile


def describe(command: DescribeCommand) -> Described:
    """Engines, samples and what they mean, board and version. Raises ``DataError``, ``ConfigError``."""
    from tinyfleet.fedcore.datasets.partition import device_data
    from tinyfleet.fedcore.foreign.data_description import abridged
    from tinyfleet.fedcore.training.registry import available

    settings = convert(command.data, AgentDataSettings, "data")
    data = device_data(settings, settings.index, command.device)
    return Described(
        engines=tuple(available()),
        samples=len(data.train) + len(data.development),
        profile=asdict(_profile(Path(command.profile))),
        version=_version(),
        data=abridged(data.description),
    )


def _profile(measured: Path) -> DeviceProfile:
    """The board as it is now, with what was measured on it."""
    from tinyfleet.device_profiles.detect import detect
    from tinyfleet.device_profiles.profile import DeviceProfile, ProfileError

    with contextlib.suppress(OSError, UnicodeDecodeError, ProfileError):
        kept = DeviceProfile.from_toml(measured.read_text(encoding="utf-8"), str(measured))
        return replace(detect(), measured=kept.measured)
    return detect()


def _version() -> str:
    """Version of the installed distribution; here, because the library that reads it is large."""
    from importlib import metadata

    try:
        return metadata.version("tinyfleet")
    except metadata.PackageNotFoundError:
        return "source"
