"""What the torch engine does and its memory model replays: said once, importable without torch."""

from __future__ import annotations

from tinyfleet.fedcore.models.graph import Op

OVERWRITABLE = frozenset({Op.CONV, Op.LINEAR, Op.BATCH_NORM, Op.ADD})
"""Layers whose backward pass does not read their own output, so that a ReLU may overwrite it."""

CHUNK = 1 << 16
"""Entries of an activation that are (un)packed at a time, a multiple of 8: their slots take half a MB."""
