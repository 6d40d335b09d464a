"""Arithmetic on constants that exporters leave in a file: shapes, padding, weights turned on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.models.onnx_import.file import MOST_ELEMENTS, OnnxOperator

Arrays = Sequence[AnyArray]

MOST_GROWN = 1 << 22  # elements of what is larger than each constant that it is made of


def folded(operator: OnnxOperator, inputs: Arrays) -> AnyArray | None:
    """What an operator makes of constants; None where it is none of those that are known, or refuses them."""
    fold = _FOLDS.get(operator.kind)
    if fold is None:
        return None
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(fold(inputs, operator.attributes))
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, MemoryError):
        return None
    if value.dtype.kind == "f":
        value = value.astype(np.float32)
    return value if value.size <= MOST_ELEMENTS and value.dtype != object else None


def _constant(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    for key, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if key in attributes:
            return kind(attributes[key])
    for key, kind in (("value_floats", np.float32), ("value_ints", np.int64)):
        if key in attributes:
            return np.array(attributes[key], kind)
    return attributes["value"]


def _axes(inputs: Arrays, attributes: Mapping[str, Any]) -> tuple[int, ...]:
    axes = attributes["axes"] if attributes.get("axes") is not None else np.ravel(inputs[1])
    return tuple(int(axis) for axis in axes)


def _broadcasts(operation: Callable[[AnyArray, AnyArray], Any]) -> Callable[[Arrays, Mapping[str, Any]], Any]:
    def fold(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
        left, right = inputs
        if np.broadcast(left, right).size > max(left.size, right.size):
            raise ValueError("an outer product")  # no exporter leaves one; it may be as large as it likes
        return operation(left, right)

    return fold


def _gather(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    data, places = inputs
    if data.size * places.size > MOST_GROWN:
        raise ValueError("more than shapes need")
    return np.take(data, places, axis=attributes.get("axis", 0))


def _filled(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    shape = [int(side) for side in inputs[0]]
    if any(side < 0 for side in shape) or math.prod(shape) > MOST_GROWN:
        raise ValueError("more than shapes need")
    value = attributes.get("value")
    return np.full(shape, np.float32(0) if value is None else value.ravel()[0])


def _concat(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    if sum(one.size for one in inputs) > MOST_GROWN:
        raise ValueError("more than shapes need")
    return np.concatenate(list(inputs), axis=attributes["axis"])


def _slice(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    data, starts, ends, *rest = inputs
    axes = rest[0] if rest else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    cuts = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(cuts)]


def _cast(inputs: Arrays, attributes: Mapping[str, Any]) -> Any:
    return inputs[0].astype({1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}[attributes["to"]])


_FOLDS: Mapping[str, Callable[[Arrays, Mapping[str, Any]], Any]] = MappingProxyType(
    {
        "Constant": _constant,
        "Identity": lambda inputs, attributes: inputs[0],
        "Cast": _cast,
        "Shape": lambda inputs, attributes: np.array(inputs[0].shape, np.int64),
        "Gather": _gather,
        "Concat": _concat,
        "ConstantOfShape": _filled,
        "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], _axes(inputs, attributes)),
        "Squeeze": lambda inputs, attributes: np.squeeze(
            inputs[0], _axes(inputs, attributes) if len(inputs) > 1 or "axes" in attributes else None
        ),
        "Transpose": lambda inputs, attributes: np.transpose(inputs[0], attributes.get("perm")),
        "Reshape": lambda inputs, attributes: np.reshape(inputs[0], [int(side) for side in inputs[1]]),
        "Slice": _slice,
        "Add": _broadcasts(np.add),
        "Sub": _broadcasts(np.subtract),
        "Mul": _broadcasts(np.multiply),
        "Div": _broadcasts(lambda a, b: a // b if a.dtype.kind == "i" else a / b),
        "Sqrt": lambda inputs, attributes: np.sqrt(inputs[0]),
        "Neg": lambda inputs, attributes: np.negative(inputs[0]),
        "Reciprocal": lambda inputs, attributes: np.float32(1.0) / inputs[0],
    }
)
