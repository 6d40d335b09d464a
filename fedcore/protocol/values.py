"""Float values as bytes: fp32, fp16 or int8, chosen a tensor at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray
from tinyfleet.fedcore.errors import CodecError, ConfigError

PRECISIONS = ("fp32", "fp16", "int8")
ITEM_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_TYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2"), "int8": np.dtype("i1")}
FP16_MAX = 65504.0


def choose(values: FloatArray, dimensions: int, precision: str) -> str:
    """How this tensor travels at the asked precision.

    int8 is for weights (two dimensions and more); what passes fp16's range stays fp32.
    Raises ``CodecError`` for values that are not finite, ``ConfigError`` for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"wire precision {precision!r}; choose {', '.join(PRECISIONS)}")
    peak = float(np.max(np.abs(values), initial=0.0))
    if not math.isfinite(peak):
        raise CodecError("a value is not finite: the model has diverged")
    if precision == "int8" and dimensions >= 2:
        return "int8"
    return "fp32" if precision == "fp32" or peak > FP16_MAX else "fp16"


def int8_scale(values: FloatArray) -> float:
    """Step of the symmetric int8 grid: max |v| / 127, rounded up to 11 significant bits.

    Rounded so, coding what was decoded gives the same bits again: both sides may quantise.
    """
    peak = float(np.max(np.abs(values), initial=0.0))
    mantissa, exponent = math.frexp(peak / 127.0)
    return max(math.ldexp(math.ceil(mantissa * 2048.0) / 2048.0, exponent), 2.0**-120)


def gradient_scale(values: FloatArray, precision: str) -> float:
    """What gradients are divided by before they travel: far below fp16's normal range they keep 11 bits so."""
    peak = float(np.max(np.abs(values), initial=0.0))
    return float(np.float32(peak)) if precision != "fp32" and peak >= 2.0**-100 else 1.0


def travelled(values: FloatArray, dimensions: int, precision: str) -> FloatArray:
    """``values`` of one tensor as the other side will decode them. Raises ``CodecError`` as ``choose`` does."""
    kind = choose(values, dimensions, precision)
    scale = int8_scale(values) if kind == "int8" else 1.0
    data = np.frombuffer(to_bytes(values, kind, scale), np.uint8)
    return from_bytes(data, kind, scale).reshape(values.shape)


def travelled_scaled(values: FloatArray, precision: str) -> FloatArray:
    """The same of gradients. Raises ``CodecError`` where one is not finite."""
    if not np.isfinite(values).all():
        raise CodecError("a gradient is not finite: training has diverged")
    kind = "fp32" if precision == "fp32" else "fp16"
    scale = gradient_scale(values, precision)
    return from_bytes(np.frombuffer(to_bytes(values, kind, scale), np.uint8), kind, scale)


def to_bytes(values: FloatArray, kind: str, scale: float) -> bytes:
    """Values divided by ``scale`` (int8, or scaled fp16), as little-endian bytes."""
    if kind == "int8":
        levels = np.clip(np.rint(values / np.float32(scale)), -127, 127)
        return bytes(levels.astype(np.int8).tobytes())
    scaled = values if scale == 1.0 else values / np.float32(scale)
    return bytes(scaled.astype(_TYPES[kind]).tobytes())


def from_bytes(data: AnyArray, kind: str, scale: float) -> FloatArray:
    """Float32 values. Raises ``CodecError`` where one is not finite: it must not enter a sum."""
    values: FloatArray = data.view(_TYPES[kind]).astype(np.float32)
    if kind != "int8" and not np.isfinite(values).all():
        raise CodecError("a value is not finite")
    if scale != 1.0:
        values = values * np.float32(scale)
        if not np.isfinite(values).all():
            raise CodecError("a scaled value is not finite")
    return values
