"""Our export formats by name, and those of other distributions (entry points ``tinyfleet.export_formats``).

Another one of ours is a file beside this one, and a name here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats import onnx, sparse
from tinyfleet.export.formats.format import ExportFormat
from tinyfleet.export.formats.tflite import formats as tflite
from tinyfleet.fedcore.errors import Unavailable
from tinyfleet.fedcore.lookup import lookup

FORMATS: dict[str, ExportFormat] = {
    each.name: each for each in (onnx.FP32, tflite.FP32, tflite.FP16, tflite.INT8, sparse.FP32, sparse.FP16)
}


def _format(name: str, given: object) -> ExportFormat:
    if not isinstance(given, ExportFormat) or given.name != name:
        raise TypeError(f"it is {given!r}; give an ExportFormat called {name!r}")
    if given.file_name("") in {each.file_name("") for each in FORMATS.values()}:
        raise ValueError(f"its files would be called as ours, {given.file_name('MODEL')}; take another suffix")
    return given


DOOR = Door("tinyfleet.export_formats", FORMATS.keys, _format)


def format_called(name: str) -> ExportFormat:
    """Raises ``Unavailable``, a ``ConfigError``."""
    return lookup("format", name, FORMATS, DOOR)


def missing_formats() -> dict[str, str]:
    """Formats of ours that cannot be written here, and why."""
    return {name: why for name, each in FORMATS.items() if (why := each.missing())}


def chosen_formats(names: Sequence[str] | None) -> list[ExportFormat]:
    """The formats of these names; without any all of ours that can be written here, others' only by name.

    Raises ``ExportError`` for one that is unknown or cannot be written here.
    """
    if names is None:
        missing = missing_formats()
        return [each for name, each in FORMATS.items() if name not in missing]
    try:
        chosen = [format_called(name) for name in names]
    except Unavailable as error:
        raise ExportError(str(error)) from None
    for each in chosen:
        if why := each.missing():
            raise ExportError(f"format {each.name!r} cannot be written: {why}")
    return chosen
