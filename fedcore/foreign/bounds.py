"""DataBounds of free-form data: how deep, how much, how long, how large."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tinyfleet.fedcore.errors import CodecError


@dataclass(frozen=True, slots=True)
class DataBounds:
    """What plain data from outside may hold at most."""

    depth: int = 12  # of objects and lists within each other
    values: int = 4096  # in all, keys not counted
    text: int = 4000  # characters of one text, or of one key
    magnitude: float = 2.0**63  # of a number: what a database or a machine word takes


def check_bounds(data: Any, where: str, bounds: DataBounds = DataBounds()) -> None:
    """Walk plain data, without recursion. Raises ``CodecError``, which names ``where`` and never the value."""
    waiting, seen = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen + len(waiting) > bounds.values:
            raise CodecError(f"{where}: more than {bounds.values} values")
        if isinstance(value, dict | list | tuple):
            if depth >= bounds.depth:
                raise CodecError(f"{where}: nested more than {bounds.depth} deep")
            if len(value) > bounds.values:
                raise CodecError(f"{where}: {len(value)} values in one list; at most {bounds.values}")
            if isinstance(value, dict):
                for key in value:
                    _check_text(key, where, bounds)
                value = value.values()
            waiting += [(inner, depth + 1) for inner in value]
        else:
            _check_value(value, where, bounds)


def _check_value(value: Any, where: str, bounds: DataBounds) -> None:
    if isinstance(value, str):
        _check_text(value, where, bounds)
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        # An integer is compared, never turned into a float: that alone may overflow.
        if not -bounds.magnitude < value < bounds.magnitude or (isinstance(value, float) and math.isnan(value)):
            raise CodecError(f"{where}: a number is not finite, or beyond {bounds.magnitude:g}")
    else:
        raise CodecError(f"{where}: a {type(value).__name__} is no plain data")


def _check_text(text: Any, where: str, bounds: DataBounds) -> None:
    if not isinstance(text, str):
        raise CodecError(f"{where}: a key of type {type(text).__name__}; only texts are taken")
    if len(text) > bounds.text:
        raise CodecError(f"{where}: a text of {len(text)} characters; at most {bounds.text}")
