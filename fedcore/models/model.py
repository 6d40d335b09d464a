"""What a model is to the registry: a function that writes its graph, and what its input is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.fedcore.models.graph import Graph

IMAGES = ("channels", "height", "width")
SERIES = ("channels", "time")


@dataclass(frozen=True, slots=True)
class Model:
    """``make(input_shape, classes, **arguments)`` gives the graph; an argument's default has its type."""

    make: Callable[..., Graph]
    axes: tuple[str, ...] = IMAGES  # of the input
