"""Windows that slide over an image: the geometry that convolutions and pools have in common."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import Shape
from tinyfleet.fedcore.models.node import Node

ATTRIBUTES = frozenset({"kernel", "stride", "padding"})


def pads(node: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before the image, behind it), a number a dimension each."""
    dimensions = len(node.kernel)
    if len(node.padding) <= dimensions:
        return node.padding, node.padding
    return node.padding[:dimensions], node.padding[dimensions:]


def lopsided(node: Node) -> bool:
    """Whether there is more padding on one side than on the other."""
    before, behind = pads(node)
    return before != behind


def dilations(node: Node) -> tuple[int, ...]:
    """A number a dimension."""
    return node.dilation or (1,) * len(node.kernel)


def spans(node: Node) -> tuple[int, ...]:
    """From the first to the last value that a window reads, in each dimension."""
    return tuple((k - 1) * d + 1 for k, d in zip(node.kernel, dilations(node), strict=True))


def window_fault(node: Node, sources: Sequence[Shape]) -> str:
    """What is wrong with kernel, stride, padding or dilation; "" if nothing."""
    dimensions = len(sources[0]) - 1
    if any(len(values) != dimensions for values in (node.kernel, node.stride, dilations(node))):
        return f"kernel, stride and padding need {dimensions} numbers each"
    if len(node.padding) not in (dimensions, 2 * dimensions):
        return f"kernel, stride and padding need {dimensions} numbers each, or padding {2 * dimensions}"
    if min(*node.kernel, *node.stride, *dilations(node)) < 1 or min(node.padding) < 0:
        return f"kernel {node.kernel} and stride {node.stride} must be above 0, padding {node.padding} not below"
    if min(window_shape(node, sources)) < 1:
        return f"its kernel {node.kernel} is larger than the padded input"
    return ""


def window_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """How many windows there are in each dimension."""
    before, behind = pads(node)
    return tuple(
        (size + b + e - span) // s + 1
        for size, span, s, b, e in zip(sources[0][1:], spans(node), node.stride, before, behind, strict=True)
    )


def pool_fault(node: Node, sources: Sequence[Shape]) -> str:
    """Likewise of a pool, whose windows may not lie beside the image."""
    fault = window_fault(node, sources)
    before, behind = pads(node)
    if not fault and any(2 * b > k or e >= k for b, e, k in zip(before, behind, node.kernel, strict=True)):
        return f"padding {node.padding} is more than half of its kernel {node.kernel}: windows would be empty"
    return fault


def pool_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """A value for every window of every channel."""
    return (sources[0][0], *window_shape(node, sources))
