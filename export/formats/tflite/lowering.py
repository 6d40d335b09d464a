"""A model on its way into a TFLite file: which tensor holds what, in which shape and numbers.

The input is NHWC; one-dimensional models become two-dimensional with height 1. The batch is free.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyfleet.export.formats.tflite.file import TfliteFile
from tinyfleet.export.formats.tflite.precision import Precision
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import INPUT
from tinyfleet.fedcore.models.layers.table import kind_of
from tinyfleet.fedcore.models.layers.window import pads, spans


def spatial2(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """(height, width) of a one- or two-dimensional setting."""
    height, width = values if len(values) == 2 else (fill, values[0])
    return height, width


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) -> (H, W, C), (C, L) -> (1, L, C), (C,) -> (C,)."""
    if len(shape) == 1:
        return shape
    return (*spatial2(shape[1:], 1), shape[0])


class Lowering:
    """The file so far, and what the operators of one layer ask about the others."""

    def __init__(self, model: Inference, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.file = TfliteFile(f"{model.name}, written by tinyfleet")
        self.tensors: dict[str, int] = {}  # layer name -> tensor of its output
        self.flattened: dict[str, tuple[int, ...]] = {}  # flat layer -> shape that it was made from
        self.shapes = {INPUT: model.input_shape} | {layer.name: layer.shape for layer in model.layers}
        self._layers = {layer.name: layer for layer in model.layers}

    def activation(self, name: str, shape: tuple[int, ...] | None = None, like: str | None = None) -> int:
        """A tensor for a layer's output (or of ``shape``), quantised as layer ``like`` is."""
        shape = channels_last(self.shapes[name]) if shape is None else shape
        return self.precision.activation(self.file, name, like or name, shape)

    def alike(self, name: str, like: str) -> int:
        """The tensor of a layer's output, in the numbers of layer ``like``."""
        return self.precision.alike(self.file, self.tensors[name], name, like, channels_last(self.shapes[name]))

    def emit(self, operator: str, inputs: list[int], output: int, options: Any = None) -> None:
        """Append one operator, in the version that the precision needs."""
        self.file.operator(operator, inputs, [output], self.precision.version(operator), options)

    def padded(self, layer: Layer, source: int, *, lowest: bool = False) -> tuple[int, int]:
        """(tensor to read, TFLite padding). SAME only where it means what PyTorch's padding does.

        ``lowest``: what pads is the lowest number that there is, not zero.
        """
        implicit = self.implicit(layer)
        if implicit is not None:
            return source, implicit
        (top, left), (bottom, right) = (spatial2(side, 0) for side in pads(layer.node))
        height, width, channels = channels_last(self.shapes[layer.inputs[0]])
        shape = (height + top + bottom, width + left + right, channels)
        name = f"{layer.name}/padded"
        target = self.activation(name, shape, like=layer.inputs[0])
        amounts = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [source, self.file.constant(f"{name}/amounts", amounts)]
        if lowest:
            inputs.append(self.precision.lowest(self.file, f"{name}/lowest", layer.inputs[0]))
        self.emit("PADV2" if lowest else "PAD", inputs, target)
        return target, self.file.schema.Padding.VALID

    def implicit(self, layer: Layer) -> int | None:
        """TFLite's padding where one of its kinds is what PyTorch's is."""
        node, kinds = layer.node, self.file.schema.Padding
        if not any(node.padding):
            return int(kinds.VALID)
        sizes = self.shapes[layer.inputs[0]][1:]
        # SAME gives size / stride windows, rounded up, and an odd one of what they need besides is behind.
        needed = [
            max(0, (-(-size // s) - 1) * s + span - size)
            for size, s, span in zip(sizes, node.stride, spans(node), strict=True)
        ]
        same = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
        return int(kinds.SAME) if pads(node) == same else None

    def numbers(self, name: str, values: FloatArray) -> int:
        """A constant of positive numbers."""
        return self.precision.numbers(self.file, name, values)

    def sizes(self, layer: Layer) -> tuple[int, int]:
        """(height, width) of a layer's input."""
        return spatial2(self.shapes[layer.inputs[0]][1:], 1)

    def reshape(self, name: str, source: int, target: int, shape: tuple[int, ...]) -> None:
        """Append a reshape to ``shape``, the batch not counted; ``name`` is the new constant's."""
        sizes = np.array([-1, *shape], np.int32)
        options = self.file.options("ReshapeOptions", newShape=sizes)
        self.emit("RESHAPE", [source, self.file.constant(name, sizes)], target, options)

    def never_negative(self, name: str) -> bool:
        """Whether no value of a layer's output is below zero, whatever comes in."""
        layer = self._layers.get(name)
        if layer is None:
            return False
        kind = kind_of(layer.node)
        return kind.never_negative or (bool(kind.selects) and self.never_negative(layer.inputs[0]))
