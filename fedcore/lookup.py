"""Looks up by name what is ours or what another distribution adds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from tinyfleet.device_profiles.plugins import Door, PluginError
from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.fedcore.errors import Unavailable

T = TypeVar("T")


def lookup(what: str, name: str, ours: Mapping[str, T], door: Door[T]) -> T:
    """Ours first: others' are looked for, and imported, only where ``name`` is none of ours.

    Raises ``Unavailable`` where nobody has it, or where the distribution that does cannot be used.
    """
    if name in ours:
        return ours[name]
    try:
        found = door.load(name)
    except PluginError as error:
        raise Unavailable(f"{what} {name!r}: {error}") from None
    if found is None:
        raise Unavailable(
            f"{what} {name!r} is unknown; {hint(name, (*ours, *door.names()))} "
            f"Where another distribution adds it ({door.group}), install that one on this machine too"
        )
    return found
