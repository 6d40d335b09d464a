"""Operators that move values and compute nothing: most leave no layer behind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tinyfleet.fedcore.models.graph import Op
from tinyfleet.fedcore.models.onnx_import.call import ImportCall
from tinyfleet.fedcore.models.onnx_import.value import BATCH, CHANNELS, Value


def same(call: ImportCall) -> Value:
    """``Identity``, ``Dropout`` in use, ``Cast`` to float."""
    if call.operator.kind == "Cast" and call.attribute("to", 1) not in (1, 10, 11):
        call.refuse("it makes whole numbers of them", "export the model in float32")
    return call.value()


def transpose(call: ImportCall) -> Value:
    """``Transpose``."""
    value = call.value()
    order = call.attribute("perm", ()) or tuple(reversed(range(len(value.sides))))
    return value.transposed(order) or call.refuse(
        f"its order {list(order)} of axes is no layer's", "keep the batch first, and channels beside the image"
    )


def flatten(call: ImportCall) -> Value:
    """``Flatten`` behind the batch."""
    value = call.value()
    axis = call.attribute("axis", 1)
    if axis % len(value.sides) != 1 % len(value.sides):
        call.refuse(f"it flattens from axis {axis}", "flatten from axis 1")
    return _flat(call, value)


def reshape(call: ImportCall) -> Value:
    """``Reshape``: to a vector, with sides of one elsewhere, or as a part of a channel shuffle."""
    value, wanted = call.value(), call.integers(1) or ()
    sides = _sides(call, value, wanted)
    if len(sides) == 2:
        return value if len(value.sides) == 2 else _flat(call, value)
    if value.groups:
        return _shuffled(call, value, sides)
    if (moved := value.reshaped(sides)) is not None:
        return moved
    if value.channels_first and len(sides) == len(value.sides) + 1 and sides[3:] == value.sides[2:]:
        return replace(value, groups=sides[1])
    return call.refuse(
        f"it makes {list(sides)} of {list(value.sides)}", "give the model its input in the shape that it works on"
    )


def squeeze(call: ImportCall) -> Value:
    """``Squeeze``."""
    value = call.value()
    axes = call.attribute("axes") or call.integers(1)
    gone = {axis % len(value.sides) for axis in axes} if axes else set()
    if not axes:
        gone = {axis for axis, side in enumerate(value.sides) if side == 1}
    return _reshaped(call, value, [side for axis, side in enumerate(value.sides) if axis not in gone])


def unsqueeze(call: ImportCall) -> Value:
    """``Unsqueeze``."""
    value = call.value()
    axes = call.attribute("axes") or call.integers(1) or ()
    rank = len(value.sides) + len(axes)
    if rank > 8:
        call.refuse(f"{rank} dimensions", "use four at most")
    rest, places = iter(value.sides), {axis % rank for axis in axes}
    return _reshaped(call, value, [1 if axis in places else next(rest) for axis in range(rank)])


def concat(call: ImportCall) -> Value:
    """``Concat`` of channels."""
    values = [call.value(index) for index in range(len(call.inputs))]
    axis = call.attribute("axis", 1) % len(values[0].axes)
    if any(not value.plain or value.axes != values[0].axes for value in values):
        call.refuse("its inputs lie differently", "join tensors of one layout")
    if values[0].axes[axis] != CHANNELS:
        call.refuse(f"it joins along axis {axis}", "join channels alone")
    return call.layer(Op.CONCAT, values)


def cut(call: ImportCall) -> Value:
    """``Slice`` of channels, one piece of them."""
    value = call.value()
    old = call.attribute("starts") is not None  # attributes then
    starts = call.attribute("starts", ()) if old else call.integers(1) or ()
    ends = call.attribute("ends", ()) if old else call.integers(2) or ()
    axes = (call.attribute("axes", ()) if old else call.integers(3)) or tuple(range(len(starts)))
    steps = () if old else call.integers(4) or ()
    if len(starts) != 1 or len(ends) != 1 or len(axes) != 1 or set(steps) - {1} or not value.plain:
        call.refuse("it cuts more than one axis, or in steps", "take one piece of the channels")
    axis = value.axes[axes[0] % len(value.axes)]
    first, last, _ = slice(starts[0], ends[0]).indices(max(1, value.side(axis)))
    if axis in (None, BATCH) or (first, last) == (0, value.side(axis)):
        return value if axis != BATCH else call.refuse("it cuts the batch", "export without")
    return _piece(call, value, axis, first, last)


def split(call: ImportCall) -> list[Value]:
    """``Split`` of channels."""
    value = call.value()
    axis = value.axes[call.attribute("axis", 0) % len(value.axes)] if value.plain else None
    sizes = call.attribute("split") or call.integers(1)
    count = len(call.operator.outputs)
    if axis == CHANNELS and sizes is None:
        each = -(-value.shape[0] // count)
        sizes = [min(each, value.shape[0] - each * index) for index in range(count)]
    if axis != CHANNELS or sizes is None or sum(sizes) != value.shape[0] or len(sizes) != count:
        call.refuse("it splits other than channels", "split channels alone")
    ends = [sum(sizes[: index + 1]) for index in range(count)]
    return [_piece(call, value, axis, end - size, end) for end, size in zip(ends, sizes, strict=True)]


def resize(call: ImportCall) -> Value:
    """``Resize`` and ``Upsample`` to the nearest neighbour, by whole factors."""
    value = call.first()
    scales = call.constant(2 if call.operator.kind == "Resize" else 1)
    sizes = call.integers(3) if len(call.inputs) > 3 else None
    if sizes is not None and len(sizes) == len(value.axes):
        factors = [a / b for a, b in zip(sizes[2:], value.sides[2:], strict=True)]
    else:
        factors = [] if scales is None else [float(scale) for scale in scales.ravel()[2:]]
    exact = call.attribute("coordinate_transformation_mode", "asymmetric") in ("asymmetric", "half_pixel")
    whole = all(factor >= 1 and factor == int(factor) for factor in factors)
    if (
        call.attribute("mode", "nearest") != "nearest"
        or not exact
        or not whole
        or len(factors) != len(value.axes) - 2
    ):
        call.refuse("it is no nearest neighbour by whole factors", 'use mode="nearest" and a factor of 2, say')
    kernel = tuple(int(factor) for factor, axis in zip(factors, value.axes[2:], strict=True) if axis is not None)
    return call.layer(Op.UPSAMPLE, [value], kernel=kernel)


def _piece(call: ImportCall, value: Value, axis: int | None, first: int, last: int) -> Value:
    if axis != CHANNELS or last <= first:
        call.refuse(f"it cuts axis {axis} from {first} to {last}", "take a piece of the channels, at least one")
    more: dict[str, Any] = {"start": first} if first else {}
    return call.layer(Op.SLICE, [value], in_channels=value.shape[0], out_channels=last - first, **more)


def _reshaped(call: ImportCall, value: Value, sides: list[int]) -> Value:
    if len(sides) == 2 and len(value.sides) > 2:
        return _flat(call, value)
    return value.reshaped(sides) or call.refuse(f"{list(value.sides)} becomes {sides}", "keep the image's sides")


def _flat(call: ImportCall, value: Value) -> Value:
    if not value.plain or value.axes[0] != BATCH:
        call.refuse("what it flattens is padded, split or turned", "flatten what a layer gives")
    if len(value.shape) == 1:
        return replace(value, axes=(BATCH, CHANNELS))
    order = value.flat_order()
    flat = call.layer(Op.FLATTEN, [replace(value, axes=tuple(range(len(value.shape) + 1)))])
    return replace(flat, axes=(BATCH, CHANNELS), order=order)


def _shuffled(call: ImportCall, value: Value, sides: tuple[int, ...]) -> Value:
    back = replace(value, groups=0, turned=False)
    if back.sides != sides:
        call.refuse(f"it makes {list(sides)} of split channels", "shuffle channels alone")
    return call.layer(Op.SHUFFLE, [back], groups=value.groups) if value.turned else back


def _sides(call: ImportCall, value: Value, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The whole shape, batch as -1. Raises ``ConfigError``."""
    if not 2 <= len(wanted) <= 6:
        call.refuse(f"its shape is {list(wanted)}", "keep the batch, and use up to four sides")
    total = math.prod(value.shape)
    sides = [value.sides[i] if side == 0 and i < len(value.sides) else side for i, side in enumerate(wanted[1:], 1)]
    if sides.count(-1) == 1 and (known := math.prod(side for side in sides if side != -1)) > 0:
        sides[sides.index(-1)] = total // known
    if any(side < 1 for side in sides) or math.prod(sides) != total or value.axes[0] != BATCH:
        call.refuse(f"its shape is {list(wanted)} for {list(value.sides)}", "keep the batch as the first dimension")
    return (-1, *sides)
