"""Convolutions and pools: kernels, strides and padding as the file says them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import Op
from tinyfleet.fedcore.models.onnx_import.call import ImportCall, Pads
from tinyfleet.fedcore.models.onnx_import.translation import hint_of
from tinyfleet.fedcore.models.onnx_import.value import Value


def conv(call: ImportCall) -> Value:
    """``Conv``; over a vector, which a global pool leaves, a linear layer."""
    value = call.first()
    weight = call.weight(1, len(value.axes))
    bias = call.floats(2)
    kernel = weight.shape[2:]
    groups = call.attribute("group", 1)
    if len(value.shape) == 1:
        return _of_vector(call, value, weight, bias, groups)
    attributes = _window(call, value, kernel)
    keep = [axis for axis, of in enumerate(value.axes) if of is not None]
    channels = value.shape[0]
    more: dict[str, FloatArray] = {"weight": weight.reshape([weight.shape[axis] for axis in keep])}
    if bias is not None:
        more["bias"] = bias
    return call.layer(
        Op.CONV,
        [replace(value, padding=())],
        params=more,
        hint=hint_of(call.inputs[1]),
        in_channels=channels,
        out_channels=weight.shape[0],
        groups=groups,
        bias=bias is not None,
        **attributes,
    )


def _of_vector(call: ImportCall, value: Value, weight: FloatArray, bias: FloatArray | None, groups: int) -> Value:
    if groups != 1 or any(side != 1 for side in weight.shape[2:]) or value.padding:
        call.refuse("it convolves a vector with more than a 1x1 kernel", "put it before the global pool")
    params = {"weight": weight.reshape(weight.shape[:2])} | ({} if bias is None else {"bias": bias})
    return call.layer(
        Op.LINEAR, [value], params=params, hint=hint_of(call.inputs[1]), in_channels=value.shape[0],
        out_channels=weight.shape[0], bias=bias is not None,
    )  # fmt: skip


def max_pool(call: ImportCall) -> Value:
    """``MaxPool``."""
    value = call.first()
    attributes = _window(call, value, call.attribute("kernel_shape", ()))
    if attributes.pop("dilation", None):
        call.refuse("its windows are dilated", "use a pool without dilation")
    return _pooled(call, Op.MAX_POOL, value, attributes)


def avg_pool(call: ImportCall) -> Value:
    """``AveragePool``: where one window is the whole image, a global pool."""
    value = call.first()
    kernel = call.attribute("kernel_shape", ())
    attributes = _window(call, value, kernel)
    padded = any(attributes["padding"])
    if not padded and attributes["kernel"] == value.shape[1:]:
        return global_avg_pool(call)
    if padded and call.attribute("count_include_pad", 0):
        call.refuse("its mean counts the padding", "use count_include_pad=False, or a pool without padding")
    return _pooled(call, Op.AVG_POOL, value, attributes)


def global_avg_pool(call: ImportCall) -> Value:
    """``GlobalAveragePool``: sides of one stay where the image was."""
    value = call.first()
    if value.padding:
        call.refuse("it follows a padding", "pool the image without it")
    return value if len(value.shape) == 1 else call.layer(Op.GLOBAL_AVG_POOL, [value])


def reduce_mean(call: ImportCall) -> Value:
    """``ReduceMean`` over all of the image, whichever way it lies."""
    value = call.value()
    axes = call.attribute("axes") or call.integers(1) or tuple(range(len(value.axes)))
    axes = tuple(sorted({axis % len(value.axes) for axis in axes}))
    of = {value.axes[axis] for axis in axes} - {None}
    wanted = {axis for axis in range(2, len(value.shape) + 1) if value.side(axis) != 1}
    if not value.plain or not wanted <= of or of & {0, 1}:
        call.refuse(f"its mean over axes {list(axes)} is not that over the image", "use a global average pool")
    turned = replace(value, axes=tuple(None if axis in axes else of for axis, of in enumerate(value.axes)))
    if len(value.shape) > 1:
        pooled = call.layer(Op.GLOBAL_AVG_POOL, [value])
        turned = replace(pooled, axes=turned.axes)
    if not call.attribute("keepdims", 1):
        turned = replace(turned, axes=tuple(of for axis, of in enumerate(turned.axes) if axis not in axes))
    return turned


def pad(call: ImportCall) -> Value:
    """``Pad`` with zeros, which the next convolution takes."""
    value = call.first()
    amounts = call.attribute("pads") or call.integers(1)
    if call.attribute("mode", "constant") != "constant":
        call.refuse("it pads with other than zeros", "use zeros: padding of a convolution")
    filling = call.constant(2)
    if (filling is not None and filling.any()) or call.attribute("value", 0.0):
        call.refuse("it pads with other than zeros", "use zeros: padding of a convolution")
    rank = len(value.axes)
    if amounts is None or len(amounts) != 2 * rank or len(call.inputs) > 3:
        call.refuse(f"its amounts are not {2 * rank} numbers", "export the model with fixed shapes")
    pads = tuple(zip(amounts[:rank], amounts[rank:], strict=True))
    if any(any(pads[axis]) for axis in range(rank) if value.axes[axis] in (None, 0, 1)):
        call.refuse("it pads channels", "pad the image alone")
    own = [pads[value.axes.index(axis)] for axis in range(2, len(value.shape) + 1)]
    if any(amount < 0 for pair in own for amount in pair):
        call.refuse("it cuts the image", "export the model without cropping")
    padding = value.padding or ((0, 0),) * len(own)
    return replace(value, padding=tuple((a + c, b + d) for (a, b), (c, d) in zip(padding, own, strict=True)))


def _pooled(call: ImportCall, kind: str, value: Value, attributes: dict[str, Any]) -> Value:
    if value.padding:
        call.refuse("it follows a padding with zeros", "pad inside of the pool")
    if call.attribute("ceil_mode", 0) and (more := _rounded_up(value, attributes)) != attributes["padding"]:
        if kind != Op.MAX_POOL:
            call.refuse("it rounds its size up", "use ceil_mode=False, with padding where the border counts")
        attributes = attributes | {"padding": more}
    return call.layer(kind, [value], **attributes)


def _rounded_up(value: Value, attributes: dict[str, Any]) -> tuple[int, ...]:
    """The padding with which rounding down gives as many windows; none begins behind the image."""
    padding: tuple[int, ...] = attributes["padding"]
    spatial = len(value.shape) - 1
    before, behind = padding[:spatial], list(padding[-spatial:])
    windows = zip(value.shape[1:], attributes["kernel"], attributes["stride"], strict=True)
    for axis, (side, k, s) in enumerate(windows):
        whole = side + before[axis] + behind[axis]
        count = -(-(whole - k) // s) + 1
        if (count - 1) * s >= side + before[axis]:
            count -= 1
        behind[axis] += max(0, (count - 1) * s + k - whole)
    return before if tuple(behind) == before else before + tuple(behind)


def _window(call: ImportCall, value: Value, kernel: tuple[int, ...]) -> dict[str, Any]:
    """Attributes of the layer; sides of one that only the file has are left out. Raises ``ConfigError``."""
    spatial = len(value.axes) - 2
    strides = call.attribute("strides", ()) or (1,) * spatial
    dilations = call.attribute("dilations", ()) or (1,) * spatial
    if any(len(numbers) != spatial for numbers in (kernel, strides, dilations)) or min(
        (*kernel, *strides, *dilations), default=1
    ) < 1:  # fmt: skip
        call.refuse(f"kernel {kernel}, strides {strides}, dilations {dilations}", "give one of each a dimension")
    pads = _pads(call, value, kernel, strides, dilations)
    kept: list[int] = []
    for place, axis in enumerate(value.axes[2:]):
        if axis is not None:
            kept.append(place)
        elif kernel[place] != 1 or any(pads[place]):
            call.refuse("its kernel goes beyond a side of one", "give the model an input with that side")
    added = value.padding or ((0, 0),) * len(kept)
    own = [(pads[place][0] + more[0], pads[place][1] + more[1]) for place, more in zip(kept, added, strict=True)]
    before, behind = tuple(pair[0] for pair in own), tuple(pair[1] for pair in own)
    attributes = {
        "kernel": tuple(kernel[place] for place in kept),
        "stride": tuple(strides[place] for place in kept),
        "padding": before if before == behind else before + behind,
    }
    if any(dilations[place] != 1 for place in kept):
        attributes["dilation"] = tuple(dilations[place] for place in kept)
    return attributes


def _pads(
    call: ImportCall, value: Value, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Pads:
    """Padding as it comes out: SAME gives ceil(side / stride), an odd rest behind (UPPER) or before."""
    auto, spatial = call.attribute("auto_pad", "NOTSET"), len(kernel)
    if auto == "NOTSET":
        pads = call.attribute("pads", ()) or (0,) * (2 * spatial)
        if len(pads) != 2 * spatial or min(pads, default=0) < 0:
            call.refuse(f"its pads are {pads}", "give two a dimension, none below zero")
        return tuple(zip(pads[:spatial], pads[spatial:], strict=True))
    if auto == "VALID":
        return ((0, 0),) * spatial
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        call.refuse(f"its auto_pad is {auto!r}", "export the model with explicit padding")
    found = []
    for axis, k, s, d in zip(value.axes[2:], kernel, strides, dilations, strict=True):
        side = value.side(axis)
        whole = max(0, (-(-side // s) - 1) * s + (k - 1) * d + 1 - side)
        less = whole // 2
        found.append((less, whole - less) if auto == "SAME_UPPER" else (whole - less, less))
    return tuple(found)
