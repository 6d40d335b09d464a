"""What other distributions add, tried one by one."""

from __future__ import annotations

from importlib import import_module

from tinyfleet.device_profiles.plugins import Door, Plugin
from tinyfleet.device_profiles.plugins import plugins as installed
from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.doctor.answer import Answer, Outcome, Surroundings

# Where each group's table is. Not all can be imported everywhere: a board writes no ONNX files.
DOORS = {
    "tinyfleet.methods": "tinyfleet.fedcore.methods.registry",
    "tinyfleet.models": "tinyfleet.fedcore.models.registry",
    "tinyfleet.datasets": "tinyfleet.fedcore.datasets.registry",
    "tinyfleet.export_formats": "tinyfleet.export.formats.table",
    "tinyfleet.engines": "tinyfleet.fedcore.training.registry",
    "tinyfleet.sensors": "tinyfleet.device_profiles.sensors.read",
    "tinyfleet.boards": "tinyfleet.device_profiles.known_boards",
}


def plugins(surroundings: Surroundings) -> Answer:
    """A line for every distribution, and what is wrong with any of its entry points."""
    found: dict[str, list[str]] = {}
    faults = []
    for plugin in installed():
        names = found.setdefault(f"{plugin.distribution} {plugin.version}", [])
        names.append(f"{plugin.group.removeprefix('tinyfleet.')} {plugin.name}")
        if fault := _fault(plugin):
            faults.append(fault)
    if not found:
        return Answer(Outcome.OK, "no other distribution adds anything")
    text = "\n".join(f"{distribution}: {', '.join(names)}" for distribution, names in found.items())
    return Answer(Outcome.WARNING if faults else Outcome.OK, text, "\n".join(faults))


def _fault(plugin: Plugin) -> str:
    if plugin.group not in DOORS:
        return str(plugin.error(f"there is no such group; {hint(plugin.group, DOORS)}"))
    try:
        door: Door[object] = import_module(DOORS[plugin.group]).DOOR
    except ImportError as error:
        return str(plugin.error(f"cannot be tried here: {error}"))
    return door.fault(plugin)
