"""What the torch engine does and its memory model replays: said once, importable without torch."""

from __future__ import annotations

CHUNK = 1 << 16
"""Entries of an activation that are (un)packed at a time, a multiple of 8: their slots take half a MB."""
