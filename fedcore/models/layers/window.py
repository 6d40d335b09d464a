"""Windows that slide over an image: the geometry that convolutions and pools have in common."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import Shape
from tinyfleet.fedcore.models.node import Node

ATTRIBUTES = frozenset({"kernel", "stride", "padding"})


def window_fault(node: Node, sources: Sequence[Shape]) -> str:
    """What is wrong with kernel, stride or padding; "" if nothing."""
    spatial = sources[0][1:]
    if any(len(values) != len(spatial) for values in (node.kernel, node.stride, node.padding)):
        return f"kernel, stride and padding need {len(spatial)} numbers each"
    if min(*node.kernel, *node.stride) < 1 or min(node.padding) < 0:
        return f"kernel {node.kernel} and stride {node.stride} must be above 0, padding {node.padding} not below"
    if min(window_shape(node, sources)) < 1:
        return f"its kernel {node.kernel} is larger than the padded input"
    return ""


def window_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """How many windows there are in each dimension."""
    return tuple(
        (size + 2 * p - k) // s + 1
        for size, k, s, p in zip(sources[0][1:], node.kernel, node.stride, node.padding, strict=True)
    )


def pool_fault(node: Node, sources: Sequence[Shape]) -> str:
    """Likewise of a pool, whose windows may not lie beside the image."""
    fault = window_fault(node, sources)
    if not fault and any(2 * p > k for p, k in zip(node.padding, node.kernel, strict=True)):
        return f"padding {node.padding} is more than half of its kernel {node.kernel}: windows would be empty"
    return fault


def pool_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """A value for every window of every channel."""
    return (sources[0][0], *window_shape(node, sources))
