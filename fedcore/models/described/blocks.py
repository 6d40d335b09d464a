"""The layers that may be pruned, in blocks for progressive pruning, of a model that nobody has divided."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.models.layers.kind import Shape
from tinyfleet.fedcore.models.node import Node

Blocks = tuple[tuple[str, ...], ...]

MOST_BLOCKS = 8


def blocks_of(weighted: Sequence[Node], shapes: dict[str, Shape]) -> Blocks:
    """Blocks from the output to the input: a block is the layers whose outputs are of one size, a stage.

    Left out, as in the models of ours: the first layer with weights and the last one, which all others hang on,
    and grouped convolutions, which hold few weights and whose filters would mostly be dead. Where all layers are
    of one size, each is a block of its own; of more than ``MOST_BLOCKS``, neighbours are put together.
    """
    inner = [node.name for node in weighted[1:-1] if node.groups == 1]
    images = [index for index, name in enumerate(inner) if len(shapes[name]) > 1]
    stages: list[list[str]] = []
    sizes: list[Shape] = []
    for index, name in enumerate(inner):
        size = shapes[name][1:]
        # A vector's layer between those of images (squeeze and excite) is of the stage that it stands in.
        beside = not size and sizes and index < max(images, default=0)
        if not sizes or (sizes[-1] != size and not beside):
            stages.append([])
            sizes.append(size)
        stages[-1].append(name)
    if len(stages) == 1:
        stages = [[name] for name in inner]
    return tuple(tuple(stage) for stage in reversed(_merged(stages)))


def _merged(stages: list[list[str]]) -> list[list[str]]:
    """At most ``MOST_BLOCKS``, as even in number of stages as can be."""
    count = min(MOST_BLOCKS, len(stages))
    merged: list[list[str]] = []
    for index in range(count):
        first, last = index * len(stages) // count, (index + 1) * len(stages) // count
        merged.append([name for stage in stages[first:last] for name in stage])
    return merged
