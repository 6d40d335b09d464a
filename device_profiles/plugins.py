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
from importlib import import_module
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class PluginError(ValueError):
    """An entry point cannot be used; the message names distribution, entry point and remedy."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point, or with ``fault`` a line that is none."""

    group: str
    name: str
    target: str  # "module:attribute"
    distribution: str
    version: str
    fault: str = ""

    def error(self, what: str) -> PluginError:
        """What is wrong with it, for a person."""
        return PluginError(
            f"{self.distribution} {self.version}: "
            f"entry point {self.name!r} of {self.group} ({self.target}): {what}; "
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
    """All entry points of ``group``; without one those of every group of ours."""
    return tuple(plugin for plugin in _scan(tuple(sys.path)) if group in ("", plugin.group))


@lru_cache(maxsize=1)
def _scan(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Every distribution in the folders of ``path``; of two of one name the first, as an import would find it.

    By hand: ``importlib.metadata`` would cost the agent's supervisor a megabyte for as long as the board is up.
    """
    found: dict[str, list[Plugin]] = {}
    for folder in path:
        for file in sorted(Path(folder).glob("*.*-info/entry_points.txt")):  # dist-info and egg-info
            text = _text(file)
            if "[tinyfleet." in text:
                name, version = _identity(file.parent)
                found.setdefault(name, _points(text, name, version))
    return tuple(plugin for points in found.values() for plugin in points)


def _text(path: Path) -> str:
    """ "" where it cannot be read: whatever it says, it is not for us."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _identity(folder: Path) -> tuple[str, str]:
    """Name and version, as the metadata has them, or as the folder is called."""
    stem = folder.name.rpartition(".")[0].split("-")
    facts = {"Name": stem[0], "Version": stem[1] if len(stem) > 1 else "?"}
    head = (_text(folder / "METADATA") or _text(folder / "PKG-INFO")).partition("\n\n")[0]
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if colon and key in facts:
            facts[key] = value.strip()
    return facts["Name"], facts["Version"]


def _points(text: str, distribution: str, version: str) -> list[Plugin]:
    """Entry points specification of packaging.python.org: sections of lines ``name = module:attribute``."""
    found, group = [], ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif group.startswith("tinyfleet.") and line and line[0] not in "#;":
            name, equals, target = (part.strip() for part in line.partition("="))
            target = target.partition("[")[0].strip()  # extras, which mean nothing any more
            fault = "" if equals and name and target else f"{line!r} is not: name = module:attribute"
            found.append(Plugin(group, name, target, distribution, version, fault))
    return found


@cache
def _tried(plugin: Plugin) -> tuple[object, str]:
    """(what the entry point names, what its import raised): tried once, since a failure stays one."""
    if plugin.fault:
        return None, plugin.fault
    module, _, attributes = plugin.target.partition(":")
    try:
        thing: object = import_module(module.strip())
        for attribute in filter(None, attributes.strip().split(".")):
            thing = getattr(thing, attribute)
    except (Exception, SystemExit) as error:  # noqa: BLE001  others' code raises what it likes, and we go on
        return None, f"importing it raised {type(error).__name__}: {error}"
    return thing, ""


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
