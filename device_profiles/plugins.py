"""What other distributions add: entry points, a group for each kind of thing, imported when they are asked for.

One that cannot be used costs only itself: asked for by name it is a ``PluginError``, among others it is left out
and named once in the log.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

log = logging.getLogger(__name__)

T = TypeVar("T")


class PluginError(ValueError):
    """An entry point cannot be used; the message names distribution, entry point and remedy."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point, or a distribution whose entry points cannot be read (then with ``fault``)."""

    group: str
    name: str
    target: str  # "module:attribute"
    distribution: str
    version: str
    fault: str = ""

    def error(self, what: str) -> PluginError:
        """What is wrong with it, for a person."""
        point = f"entry point {self.name!r} of {self.group} ({self.target})" if self.name else "entry points"
        return PluginError(
            f"{self.distribution} {self.version}: {point}: {what}; "
            f"mend or upgrade that distribution, or take it away: pip uninstall {self.distribution}"
        )


@dataclass(frozen=True, slots=True)
class Door(Generic[T]):
    """A table of ours to which other distributions may add. ``accept(name, object)`` hands out what an entry point
    gave, or raises ``TypeError`` or ``ValueError`` saying what it should have been.
    """

    group: str  # of the entry points
    taken: Callable[[], Collection[str]]  # names of ours, which nobody can take
    accept: Callable[[str, object], T]

    def names(self) -> tuple[str, ...]:
        """Names that others add; nothing of theirs is imported for this."""
        ours, found = self.taken(), []
        for plugin in plugins(self.group):
            if plugin.name in ours:
                _say_once(plugin.error("its name is one of ours, which goes first"))
            elif plugin.name not in found:
                found.append(plugin.name)
        return tuple(found)

    def load(self, name: str) -> T | None:
        """What a distribution adds under ``name``; None where none does. Raises ``PluginError``."""
        same = [plugin for plugin in plugins(self.group) if plugin.name == name]
        if not same or name in self.taken():
            return None
        if len(same) > 1:
            others = ", ".join(other.distribution for other in same[1:])
            raise same[0].error(f"{others} has one of that name too, and only one can be meant")
        return self._object(same[0])

    def load_all(self) -> dict[str, T]:
        """All that others add, by name, without those that cannot be used."""
        found = {}
        for name in self.names():
            try:
                thing = self.load(name)
            except PluginError as error:
                _say_once(error)
            else:
                if thing is not None:
                    found[name] = thing
        return found

    def fault(self, plugin: Plugin) -> str:
        """Why ``plugin`` of this group cannot be used; "" where it can. Imports it."""
        if plugin.name in self.taken():
            return str(plugin.error("its name is one of ours, which goes first"))
        try:
            self.load(plugin.name)
        except PluginError as error:
            return str(error)
        return ""

    def _object(self, plugin: Plugin) -> T:
        try:
            return self.accept(plugin.name, _imported(plugin))
        except (TypeError, ValueError) as error:
            raise error if isinstance(error, PluginError) else plugin.error(str(error)) from None


def plugins(group: str = "") -> tuple[Plugin, ...]:
    """All entry points of ``group``; without one those of every group of ours, and what could not be read."""
    return tuple(plugin for plugin in _scan(tuple(sys.path)) if group in ("", plugin.group))


@lru_cache(maxsize=1)
def _scan(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Every distribution on ``path``; of two of one name the first, as an import would find it."""
    from importlib import metadata

    found: dict[str, list[Plugin]] = {}
    for distribution in metadata.distributions(path=list(path)):
        text = distribution.read_text("entry_points.txt") or ""
        if "tinyfleet." in text:
            found.setdefault(str(distribution.metadata["Name"]), _points(distribution))
    return tuple(plugin for points in found.values() for plugin in points)


def _points(distribution: Distribution) -> list[Plugin]:
    name, version = str(distribution.metadata["Name"]), distribution.version
    try:
        points = distribution.entry_points
    except (TypeError, ValueError) as error:  # a line that is none
        return [Plugin("", "", "", name, version, fault=f"entry_points.txt cannot be read: {error}")]
    ours = [point for point in points if point.group.startswith("tinyfleet.")]
    return [Plugin(point.group, point.name, point.value, name, version) for point in ours]


@cache
def _tried(plugin: Plugin) -> tuple[object, str]:
    """(what the entry point names, what its import raised): tried once, since a failure stays one."""
    from importlib.metadata import EntryPoint

    point: EntryPoint = EntryPoint(plugin.name, plugin.target, plugin.group)
    try:
        return point.load(), ""
    except (Exception, SystemExit) as error:  # noqa: BLE001  others' code raises what it likes, and we go on
        return None, f"importing it raised {type(error).__name__}: {error}"


def _imported(plugin: Plugin) -> object:
    thing, fault = _tried(plugin)
    if fault:
        raise plugin.error(fault)
    return thing


@cache
def _said(message: str) -> None:
    log.warning("%s", message)


def _say_once(error: PluginError) -> None:
    _said(str(error))
