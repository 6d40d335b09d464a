"""How each kind of layers is written in TFLite: explicit padding where PyTorch's is not SAME."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.tflite.lowering import Lowering, spatial2
from tinyfleet.export.inference_graph import Layer
from tinyfleet.fedcore.models.graph import Op
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE


@dataclass(frozen=True, slots=True)
class TfliteCall:
    """One layer on its way into a file. ``fused`` is the activation within its operator, NONE for none."""

    lowering: Lowering
    layer: Layer
    inputs: list[int]
    output: int
    fused: int

    def options(self, name: str, **values: Any) -> Any:
        """One of the schema's option objects."""
        return self.lowering.file.options(name, **values)

    def emit(self, operator: str, inputs: list[int], options: Any = None) -> None:
        """An operator that gives the layer's output."""
        self.lowering.emit(operator, inputs, self.output, options)


@dataclass(frozen=True, slots=True)
class Operator:
    """``write`` appends it; ``fuses``: it can hold an activation; ``fused``: its name as such an activation."""

    write: Callable[[TfliteCall], None]
    fuses: bool = False
    fused: str = ""


def _conv(call: TfliteCall) -> None:
    layer, node, weight = call.layer, call.layer.node, _some(call.layer.weight)
    depthwise = node.groups > 1
    if depthwise and node.groups != node.in_channels:
        raise ExportError(f"{layer.name}: {node.groups} groups; TFLite here knows 1 or one a channel")
    weight = weight if weight.ndim == 4 else weight[:, :, None, :]  # (out, in / groups, h, w)
    # TFLite: (out, h, w, in), depthwise (1, h, w, out).
    weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
    source, padding = call.lowering.padded(layer, call.inputs[0])
    stride_h, stride_w = spatial2(node.stride, 1)
    common = {
        "padding": padding,
        "strideH": stride_h,
        "strideW": stride_w,
        "dilationHFactor": 1,
        "dilationWFactor": 1,
        "fusedActivationFunction": call.fused,
    }
    constants = _weights(call, weight, 3 if depthwise else 0)
    if depthwise:
        multiplier = node.out_channels // node.in_channels
        options = call.options("DepthwiseConv2DOptions", depthMultiplier=multiplier, **common)
        call.emit("DEPTHWISE_CONV_2D", [source, *constants], options)
    else:
        call.emit("CONV_2D", [source, *constants], call.options("Conv2DOptions", **common))


def _linear(call: TfliteCall) -> None:
    weight = _some(call.layer.weight)
    before = call.lowering.flattened.get(call.layer.inputs[0])
    if before is not None:
        # Columns were channel-major; the flattened NHWC tensor is channel-minor.
        channels, spatial = before[0], math.prod(before[1:])
        weight = weight.reshape(-1, channels, spatial).transpose(0, 2, 1).reshape(len(weight), -1)
    constants = _weights(call, weight, None)
    options = call.options("FullyConnectedOptions", fusedActivationFunction=call.fused)
    call.emit("FULLY_CONNECTED", [*call.inputs, *constants], options)


def _leaky_relu(call: TfliteCall) -> None:
    call.emit("LEAKY_RELU", call.inputs, call.options("LeakyReluOptions", alpha=SLOPE))


def _add(call: TfliteCall) -> None:
    call.emit("ADD", call.inputs, call.options("AddOptions", fusedActivationFunction=call.fused))


def _concat(call: TfliteCall) -> None:
    layer, lowering = call.layer, call.lowering
    axis = 1 if len(layer.shape) == 1 else 3  # channels are last
    # Int8 joins equal numbers only.
    inputs = [lowering.alike(name, layer.name) for name in layer.inputs]
    call.emit("CONCATENATION", inputs, call.options("ConcatenationOptions", axis=axis))


def _max_pool(call: TfliteCall) -> None:
    layer, node = call.layer, call.layer.node
    if any(node.padding) and not call.lowering.never_negative(layer.inputs[0]):
        raise ExportError(f"{layer.name}: a padded pool of values that may be negative; put a ReLU before it")
    source, padding = call.lowering.padded(layer, call.inputs[0])
    _pool(call, "MAX_POOL_2D", source, padding)


def _avg_pool(call: TfliteCall) -> None:
    padding = call.lowering.implicit(call.layer)
    if padding is None:
        raise ExportError(
            f"{call.layer.name}: TFLite has no mean that leaves such padding out; pad by half a kernel"
        )
    _pool(call, "AVERAGE_POOL_2D", call.inputs[0], padding)


def _pool(call: TfliteCall, operator: str, source: int, padding: int) -> None:
    node = call.layer.node
    (height, width), (stride_h, stride_w) = spatial2(node.kernel, 1), spatial2(node.stride, 1)
    options = call.options(
        "Pool2DOptions",
        padding=padding,
        strideH=stride_h,
        strideW=stride_w,
        filterHeight=height,
        filterWidth=width,
    )
    call.emit(operator, [source], options)


def _global_avg_pool(call: TfliteCall) -> None:
    axes = call.lowering.file.constant(f"{call.layer.name}/axes", np.array([1, 2], np.int32))
    call.emit("MEAN", [*call.inputs, axes], call.options("ReducerOptions", keepDims=False))


def _flatten(call: TfliteCall) -> None:
    layer, lowering = call.layer, call.lowering
    before = lowering.shapes[layer.inputs[0]]
    if len(before) > 1:
        layers = lowering.model.layers
        odd = [reader.name for reader in layers if layer.name in reader.inputs and reader.op != Op.LINEAR]
        if odd or lowering.model.output == layer.name:
            raise ExportError(f"{layer.name}: a flattened image must go into linear layers, not {odd}")
        lowering.flattened[layer.name] = before
    shape = np.array([-1, math.prod(before)], np.int32)
    target = lowering.file.constant(f"{layer.name}/shape", shape)
    call.emit("RESHAPE", [*call.inputs, target], call.options("ReshapeOptions", newShape=shape))


OPERATORS: dict[str, Operator] = {
    Op.CONV: Operator(_conv, fuses=True),
    Op.LINEAR: Operator(_linear, fuses=True),
    Op.RELU: Operator(lambda call: call.emit("RELU", call.inputs), fused="RELU"),
    Op.RELU6: Operator(lambda call: call.emit("RELU6", call.inputs), fused="RELU6"),
    Op.LEAKY_RELU: Operator(_leaky_relu),
    Op.HARD_SWISH: Operator(lambda call: call.emit("HARD_SWISH", call.inputs)),
    Op.ADD: Operator(_add, fuses=True),
    Op.CONCAT: Operator(_concat),
    Op.MAX_POOL: Operator(_max_pool),
    Op.AVG_POOL: Operator(_avg_pool),
    Op.GLOBAL_AVG_POOL: Operator(_global_avg_pool),
    Op.FLATTEN: Operator(_flatten),
}
"""By kind. Batch norms are merged by then."""


def _weights(call: TfliteCall, weight: Any, axis: int | None) -> list[int]:
    """Weight and bias tensors; ``axis`` is the output channel's, None for one scale in all."""
    lowering = call.lowering
    return lowering.precision.weights(lowering.file, call.layer, weight, axis)


def _some(array: Any) -> Any:
    if array is None:
        raise ExportError("a layer that needs weights has none")
    return array
