"""What the bits of a Raspberry Pi's firmware mean (vcgencmd get_throttled)."""

from __future__ import annotations

UNDER_VOLTAGE, CLOCK_CAPPED, THROTTLED, SOFT_LIMIT = 1, 2, 4, 8  # now; sixteen bits up: at some time since the boot
