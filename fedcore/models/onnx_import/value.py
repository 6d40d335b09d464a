"""What a tensor of the file is in the graph: a layer's output, seen through transposes and reshapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tinyfleet.fedcore.arrays import IntArray

Axes = tuple[int | None, ...]
BATCH, CHANNELS = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """Axis i of the tensor is axis ``axes[i]`` of the layer's output, batch first, or None: a side of one.

    ``order``: element i of the tensor, a vector, is element ``order[i]`` of the layer's. ``padding``: zeros around
    each spatial axis of the layer, (before, behind), which the next layer takes. ``groups``: the channels' axis is
    seen as two, groups and channels of one; ``turned``: the other way round.
    """

    layer: str
    shape: tuple[int, ...]  # of the layer's output, without the batch
    axes: Axes
    order: IntArray | None = None
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 0
    turned: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the layer's output but for sides of one behind it."""
        return not (self.order is not None or self.padding or self.groups)

    @property
    def channels_first(self) -> bool:
        """Likewise, and batch and channels come first, the others in their order."""
        seen = [axis for axis in self.axes if axis is not None]
        return self.plain and seen == list(range(len(self.shape) + 1)) and self.axes[:2] == (BATCH, CHANNELS)

    def side(self, axis: int | None) -> int:
        """Of an axis; -1: the batch."""
        return 1 if axis is None else -1 if axis == BATCH else self.shape[axis - 1]

    @property
    def sides(self) -> tuple[int, ...]:
        """The tensor's shape."""
        whole = tuple(self.side(axis) for axis in self.axes)
        if not self.groups:
            return whole
        split = (self.groups, self.shape[0] // self.groups)
        return (whole[0], *(split[::-1] if self.turned else split), *whole[2:])

    def transposed(self, order: Sequence[int]) -> Value | None:
        """Its axes in another order; None where that is nothing that the graph can say."""
        if sorted(order) != list(range(len(self.sides))) or self.padding or self.order is not None:
            return None
        if self.groups:
            swapped = [0, 2, 1, *range(3, len(order))]
            return replace(self, turned=not self.turned) if list(order) == swapped else None
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def reshaped(self, sides: Sequence[int]) -> Value | None:
        """The same elements with sides of one elsewhere; None where it is more than that."""
        if not self.plain:
            return None
        moved = [axis for axis in self.axes if self.side(axis) != 1]
        if [self.side(axis) for axis in moved] != [side for side in sides if side != 1]:
            return None
        # A side of one that the layer has goes where there is room for it, in the layer's order.
        ones = [axis for axis in range(1, len(self.shape) + 1) if self.side(axis) == 1]
        rest, waiting = iter(moved), iter(ones)
        axes = [next(rest) if side != 1 else None for side in sides]
        axes = _placed(axes, list(waiting))
        return replace(self, axes=tuple(axes))

    def flat_order(self) -> IntArray | None:
        """Places in the layer's output of the elements of the tensor without its batch; None: as they lie."""
        seen = [axis for axis in self.axes if axis is not None and axis != BATCH]
        missing = [axis for axis in range(1, len(self.shape) + 1) if axis not in seen]
        places = np.arange(math.prod(self.shape), dtype=np.int64).reshape(self.shape)
        order = places.transpose([axis - 1 for axis in (*seen, *missing)]).ravel()
        return None if (order == np.arange(len(order))).all() else order


def _placed(axes: list[int | None], ones: list[int]) -> list[int | None]:
    """Axes of one among the places for them: between their neighbours where there is a place, else nowhere."""
    for axis in ones:
        before = [place for place, other in enumerate(axes) if other is not None and other < axis]
        start = max(before, default=-1) + 1
        free = [place for place in range(start, len(axes)) if axes[place] is None]
        if free:
            axes[free[0]] = axis
    return axes
