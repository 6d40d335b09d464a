"""Boards by name: the shipped ones, and those of other distributions (entry points ``tinyfleet.boards``)."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.device_profiles.plugins import Door, PluginError
from tinyfleet.device_profiles.profile import BOARDS, DeviceProfile, ProfileError, read, shipped
from tinyfleet.device_profiles.suggestions import hint


def _shipped_names() -> list[str]:
    return [path.stem for path in BOARDS.glob("*.toml")]


def _board(name: str, given: object) -> DeviceProfile:
    """An entry point names a package; the profile is the file called after the entry point in its folder."""
    folders = [*getattr(given, "__path__", ())]
    if not folders:
        raise TypeError(f"it is {given!r}; give a package that has {name}.toml in its folder")
    profile = read(Path(folders[0]) / f"{name}.toml")
    if profile.name != name:
        raise ValueError(f"{name}.toml is the profile of {profile.name!r}; call the file as its profile")
    return profile


DOOR = Door("tinyfleet.boards", _shipped_names, _board)


def known() -> dict[str, DeviceProfile]:
    """Shipped profiles and those of other distributions, by name."""
    return shipped() | DOOR.load_all()


def board(name: str, where: str = "") -> DeviceProfile:
    """A profile by its name; others' are looked for where none is shipped of that name. Raises ``ProfileError``."""
    if name in _shipped_names():
        return read(BOARDS / f"{name}.toml")
    try:
        found = DOOR.load(name)
    except PluginError as error:
        raise ProfileError(f"{where}board {name!r}: {error}") from None
    if found is None:
        raise ProfileError(f"{where}board {name!r} is unknown; {hint(name, known())}")
    return found
