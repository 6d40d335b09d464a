"""How each kind of layers is written in TFLite: explicit padding where PyTorch's is not SAME."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.tflite.lowering import Lowering, channels_last, spatial2
from tinyfleet.export.inference_graph import Layer
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import Node, Op
from tinyfleet.fedcore.models.layers.crop import cuts
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE
from tinyfleet.fedcore.models.layers.window import dilations, pads


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
    """``write`` appends it; ``fuses``: it can hold an activation; ``fused``: its name as such an activation.

    ``fixed``: the range that its output has in int8, whatever the samples give.
    """

    write: Callable[[TfliteCall], None]
    fuses: bool = False
    fused: str = ""
    fixed: tuple[float, float] | None = None


def _conv(call: TfliteCall) -> None:
    layer, node, weight = call.layer, call.layer.node, _some(call.layer.weight)
    depthwise = node.groups > 1 and node.groups == node.in_channels
    weight = weight if weight.ndim == 4 else weight[:, :, None, :]  # (out, in / groups, h, w)
    # TFLite: (out, h, w, in), depthwise (1, h, w, out).
    weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
    source, padding = call.lowering.padded(layer, call.inputs[0])
    stride_h, stride_w = spatial2(node.stride, 1)
    dilation_h, dilation_w = spatial2(dilations(node), 1)
    common = {
        "padding": padding,
        "strideH": stride_h,
        "strideW": stride_w,
        "dilationHFactor": dilation_h,
        "dilationWFactor": dilation_w,
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


def _softmax(call: TfliteCall) -> None:
    call.emit("SOFTMAX", call.inputs, call.options("SoftmaxOptions", beta=1.0))


def _add(call: TfliteCall) -> None:
    call.emit("ADD", call.inputs, call.options("AddOptions", fusedActivationFunction=call.fused))


def _hard_sigmoid(call: TfliteCall) -> None:
    lowering, name = call.lowering, call.layer.name
    three = lowering.numbers(f"{name}/three", np.array([3.0], np.float32))
    sixth = lowering.numbers(f"{name}/sixth", np.array([1.0 / 6.0], np.float32))
    shifted = lowering.activation(f"{name}/shifted", channels_last(call.layer.shape))
    relu6 = call.lowering.file.schema.ActivationFunctionType.RELU6
    lowering.emit("ADD", [*call.inputs, three], shifted, call.options("AddOptions", fusedActivationFunction=relu6))
    call.emit("MUL", [shifted, sixth], call.options("MulOptions"))


def _mul(call: TfliteCall) -> None:
    lowering, layer = call.lowering, call.layer
    whole, factor = call.inputs
    channels = lowering.shapes[layer.inputs[1]]
    if len(channels) < len(layer.shape):
        spread = (1, 1, *channels)
        source, factor = factor, lowering.activation(f"{layer.name}/factor", spread, like=layer.inputs[1])
        lowering.reshape(f"{layer.name}/factor/shape", source, factor, spread)
    call.emit("MUL", [whole, factor], call.options("MulOptions", fusedActivationFunction=call.fused))


def _slice(call: TfliteCall) -> None:
    others = len(channels_last(call.layer.shape)) - 1
    _part(call, [0] * others + [call.layer.node.start])


def _crop(call: TfliteCall) -> None:
    top, left = spatial2(cuts(call.layer.node)[0], 0)
    _part(call, [top, left, 0])


def _part(call: TfliteCall, first: list[int]) -> None:
    """What begins there and is as large as the layer's output; the batch is not counted."""
    name, file = call.layer.name, call.lowering.file
    begin = file.constant(f"{name}/begin", np.array([0, *first], np.int32))
    size = file.constant(f"{name}/size", np.array([-1, *channels_last(call.layer.shape)], np.int32))
    call.emit("SLICE", [*call.inputs, begin, size], call.options("SliceOptions"))


def _shuffle(call: TfliteCall) -> None:
    layer, lowering = call.layer, call.lowering
    whole = channels_last(layer.shape)
    groups, each, pixels = layer.node.groups, whole[-1] // layer.node.groups, math.prod(whole[:-1])
    name, like = layer.name, layer.inputs[0]
    apart = lowering.activation(f"{name}/apart", (pixels, groups, each), like)
    turned = lowering.activation(f"{name}/turned", (pixels, each, groups), like)
    order = lowering.file.constant(f"{name}/order", np.array([0, 1, 3, 2], np.int32))
    lowering.reshape(f"{name}/apart/shape", call.inputs[0], apart, (pixels, groups, each))
    lowering.emit("TRANSPOSE", [apart, order], turned, call.options("TransposeOptions"))
    lowering.reshape(f"{name}/shape", turned, call.output, whole)


def _upsample(call: TfliteCall) -> None:
    height, width, _ = channels_last(call.layer.shape)
    size = call.lowering.file.constant(f"{call.layer.name}/size", np.array([height, width], np.int32))
    call.emit("RESIZE_NEAREST_NEIGHBOR", [*call.inputs, size], call.options("ResizeNearestNeighborOptions"))


def _concat(call: TfliteCall) -> None:
    layer, lowering = call.layer, call.lowering
    axis = 1 if len(layer.shape) == 1 else 3  # channels are last
    # Int8 joins equal numbers only.
    inputs = [lowering.alike(name, layer.name) for name in layer.inputs]
    call.emit("CONCATENATION", inputs, call.options("ConcatenationOptions", axis=axis))


def _max_pool(call: TfliteCall) -> None:
    lowest = not call.lowering.never_negative(call.layer.inputs[0])
    source, padding = call.lowering.padded(call.layer, call.inputs[0], lowest=lowest)
    _pool(call, "MAX_POOL_2D", source, padding, call.output)


def _avg_pool(call: TfliteCall) -> None:
    lowering, layer = call.lowering, call.layer
    source, padding = lowering.padded(layer, call.inputs[0])
    if source == call.inputs[0]:
        _pool(call, "AVERAGE_POOL_2D", source, padding, call.output)
        return
    # Explicit padding is counted in the mean: the mean of so many more zeros, times what they made it smaller.
    means = lowering.activation(f"{layer.name}/means", channels_last(layer.shape), like=layer.inputs[0])
    _pool(call, "AVERAGE_POOL_2D", source, padding, means)
    shares = [inside(layer.node, size, dimension) for dimension, size in enumerate(lowering.sizes(layer), start=-2)]
    factors = lowering.numbers(f"{layer.name}/factors", 1.0 / np.multiply.outer(*shares)[None, :, :, None])
    call.emit("MUL", [means, factors], call.options("MulOptions"))


def inside(node: Node, size: int, dimension: int) -> FloatArray:
    """Which share of each window is inside of the image, in one of its last two dimensions."""
    if -dimension > len(node.kernel):
        return np.ones(1, np.float32)
    kernel, stride, before = (values[dimension] for values in (node.kernel, node.stride, pads(node)[0]))
    behind = pads(node)[1][dimension]
    padded = np.pad(np.ones(size, np.float32), (before, behind))
    count = (len(padded) - kernel) // stride + 1
    return np.array([padded[i * stride :][:kernel].mean() for i in range(count)], np.float32)


def _pool(call: TfliteCall, operator: str, source: int, padding: int, output: int) -> None:
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
    call.lowering.emit(operator, [source], output, options)


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
    lowering.reshape(f"{layer.name}/shape", call.inputs[0], call.output, (math.prod(before),))


OPERATORS: dict[str, Operator] = {
    Op.CONV: Operator(_conv, fuses=True),
    Op.LINEAR: Operator(_linear, fuses=True),
    Op.RELU: Operator(lambda call: call.emit("RELU", call.inputs), fused="RELU"),
    Op.RELU6: Operator(lambda call: call.emit("RELU6", call.inputs), fused="RELU6"),
    Op.LEAKY_RELU: Operator(_leaky_relu),
    Op.HARD_SWISH: Operator(lambda call: call.emit("HARD_SWISH", call.inputs)),
    Op.HARD_SIGMOID: Operator(_hard_sigmoid),
    Op.SIGMOID: Operator(lambda call: call.emit("LOGISTIC", call.inputs), fixed=(0.0, 255 / 256)),
    Op.TANH: Operator(lambda call: call.emit("TANH", call.inputs), fixed=(-1.0, 127 / 128)),
    Op.SOFTMAX: Operator(_softmax, fixed=(0.0, 255 / 256)),
    Op.ADD: Operator(_add, fuses=True),
    Op.MUL: Operator(_mul, fuses=True),
    Op.SLICE: Operator(_slice),
    Op.CROP: Operator(_crop),
    Op.SHUFFLE: Operator(_shuffle),
    Op.UPSAMPLE: Operator(_upsample),
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
