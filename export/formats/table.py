"""All export formats by name. Another one is a file beside this one, and a name here."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats import onnx, sparse
from tinyfleet.export.formats.format import ExportFormat
from tinyfleet.export.formats.tflite import formats as tflite

FORMATS: dict[str, ExportFormat] = {
    each.name: each for each in (onnx.FP32, tflite.FP32, tflite.FP16, tflite.INT8, sparse.FP32, sparse.FP16)
}


def missing_formats() -> dict[str, str]:
    """Formats that cannot be written here, and why."""
    return {name: why for name, each in FORMATS.items() if (why := each.missing())}


def chosen_formats(names: Sequence[str] | None) -> list[ExportFormat]:
    """The formats of these names; all that can be written here without any.

    Raises ``ExportError`` for one that is unknown or cannot be written here.
    """
    if names is None:
        missing = missing_formats()
        return [each for name, each in FORMATS.items() if name not in missing]
    for name in names:
        if name not in FORMATS:
            raise ExportError(f"format {name!r} is unknown; choose from {', '.join(FORMATS)}")
        if why := FORMATS[name].missing():
            raise ExportError(f"format {name!r} cannot be written: {why}")
    return [FORMATS[name] for name in names]
