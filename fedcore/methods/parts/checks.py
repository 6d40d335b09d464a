"""Checks of numbers that came over the wire."""

from __future__ import annotations

import math
from typing import Any

from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.payload import Payload

MAX_SAMPLES = 1 << 28  # of one device: more is not a board


def integer(payload: Payload, key: str) -> int:
    """An integer of a payload's meta. Raises ``ResultError`` where it is missing or is none."""
    value = payload.meta.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ResultError(f"{key} is {value!r}, not an integer")
    return value


def checked_samples(result: Payload) -> int:
    """The result's sample count. Raises ``ResultError`` outside 1 to ``MAX_SAMPLES``."""
    samples = integer(result, "samples")
    if not 1 <= samples <= MAX_SAMPLES:
        raise ResultError(f"samples is {samples}, not in 1..{MAX_SAMPLES}")
    return samples


def finite(value: Any, what: str) -> float:
    """``value`` as a finite float. Raises ``ResultError`` where it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ResultError(f"{what} is {value!r}, not a finite number")
    return float(value)
