"""Topic names. A device may publish below its own ``up`` and read its own ``down``, nothing else."""

from __future__ import annotations

import re

PREFIX = "tinyfleet/v1"
LONGEST_DEVICE = 64 * "x"
_DEVICE = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def valid_device(device: str) -> bool:
    """True for a lower-case name of letters, digits and hyphens, at most 64 long."""
    return _DEVICE.fullmatch(device) is not None


def up(device: str) -> str:
    """Device -> coordinator: control messages (JSON)."""
    return f"{PREFIX}/{device}/up"


def down(device: str) -> str:
    """Coordinator -> device: control messages (JSON)."""
    return f"{PREFIX}/{device}/down"


def up_chunk(device: str) -> str:
    """Device -> coordinator: chunks (binary)."""
    return f"{PREFIX}/{device}/up/chunk"


def down_chunk(device: str) -> str:
    """Coordinator -> device: chunks (binary)."""
    return f"{PREFIX}/{device}/down/chunk"


ALL_UP = f"{PREFIX}/+/up"
ALL_UP_CHUNKS = f"{PREFIX}/+/up/chunk"


def device_of(topic: str) -> str | None:
    """The device that an ``up`` or ``up/chunk`` topic belongs to; None where it is neither."""
    parts = topic.split("/")
    if parts[:2] != PREFIX.split("/") or len(parts) not in (4, 5) or parts[3] != "up":
        return None
    if len(parts) == 5 and parts[4] != "chunk":
        return None
    return parts[2] if valid_device(parts[2]) else None
