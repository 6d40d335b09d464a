"""Errors of the exporter."""

from __future__ import annotations

from tinyfleet.fedcore.errors import TinyfleetError


class ExportError(TinyfleetError):
    """A model cannot be written, or a written file does not compute what the model does."""

    exit_code = 8
