"""What each operator of a file becomes: a layer, a view of one, or a refusal with the nearest way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import BN_EPSILON, Op
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE
from tinyfleet.fedcore.models.layers.relu6 import CEILING
from tinyfleet.fedcore.models.onnx_import import shapes, windows
from tinyfleet.fedcore.models.onnx_import.call import ImportCall
from tinyfleet.fedcore.models.onnx_import.translation import hint_of
from tinyfleet.fedcore.models.onnx_import.value import BATCH, CHANNELS, Value


def _linear(call: ImportCall) -> Value:
    """``Gemm`` and ``MatMul`` with a constant."""
    value, weight = call.value(), call.weight(1, 2)
    if call.operator.kind == "Gemm":
        if call.attribute("transA", 0) or call.attribute("alpha", 1.0) != 1.0 or call.attribute("beta", 1.0) != 1.0:
            call.refuse("it is scaled, or its input turned", "export a plain linear layer")
        weight = weight if call.attribute("transB", 0) else weight.T
    else:
        weight = weight.T
    if len(value.shape) != 1 or value.axes[:2] != (BATCH, CHANNELS):
        call.refuse("its input is an image or a series", "flatten or pool it before the linear layer")
    if len(value.axes) != 2 or value.padding or weight.shape[1] != value.shape[0]:
        call.refuse(f"a weight {weight.shape} after {value.sides}", "export the model with fixed shapes")
    if value.order is not None:
        turned = np.empty_like(weight)
        turned[:, value.order] = weight
        weight = turned
    bias = call.floats(2)
    params = {"weight": weight}
    if bias is not None:
        params["bias"] = np.broadcast_to(bias.ravel(), weight.shape[:1]) if bias.size == 1 else bias.ravel()
    out = {"out_channels": weight.shape[0], "in_channels": weight.shape[1], "bias": bias is not None}
    return call.layer(Op.LINEAR, [replace(value, order=None)], params=params, hint=hint_of(call.inputs[1]), **out)


def _batch_norm(call: ImportCall) -> Value:
    value = call.value()
    if not value.plain or value.axes[1:2] != (CHANNELS,):
        call.refuse("its channels are not the second dimension", "put it behind the convolution")
    scale, shift, mean, var = (call.weight(index, 1) for index in range(1, 5))
    # Its epsilon is folded into the variance: ours is fixed.
    var = var + np.float32(call.attribute("epsilon", 1e-5) - BN_EPSILON)
    if (var <= -BN_EPSILON).any():
        call.refuse("a variance is below zero", "the file is damaged: export it again")
    params: dict[str, FloatArray] = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": var}
    count = {"in_channels": value.shape[0], "out_channels": value.shape[0]}
    return call.layer(Op.BATCH_NORM, [value], params=params, hint=hint_of(call.inputs[1]), **count)


def _activation(kind: str) -> Callable[[ImportCall], Value]:
    def translate(call: ImportCall) -> Value:
        value = call.value()
        if value.padding or value.groups:
            call.refuse("its input is padded or split", "put it behind a layer")
        return replace(call.layer(kind, [replace(value, order=None)]), axes=value.axes, order=value.order)

    return translate


def _clip(call: ImportCall) -> Value:
    low, high = call.attribute("min"), call.attribute("max")
    low = call.constant(1) if low is None else low
    high = call.constant(2) if high is None else high
    bounds = tuple(None if bound is None else float(np.ravel(bound)[0]) for bound in (low, high))
    if bounds[0] != 0.0 or (bounds[1] is not None and bounds[1] < 1e30 and bounds[1] != CEILING):
        call.refuse(f"it clips to {bounds[0]} .. {bounds[1]}", "use ReLU or ReLU6")
    return _activation(Op.RELU6 if bounds[1] == CEILING else Op.RELU)(call)


def _leaky_relu(call: ImportCall) -> Value:
    slope = call.attribute("alpha", 0.01)
    if abs(slope - SLOPE) > 1e-6:
        call.refuse(f"its slope is {slope:g}", f"use the slope {SLOPE}")
    return _activation(Op.LEAKY_RELU)(call)


def _hard_sigmoid(call: ImportCall) -> Value:
    if abs(call.attribute("alpha", 0.2) - 1 / 6) > 1e-5 or abs(call.attribute("beta", 0.5) - 0.5) > 1e-6:
        call.refuse("it is another than max(0, min(1, x / 6 + 1 / 2))", "use torch's Hardsigmoid")
    return _activation(Op.HARD_SIGMOID)(call)


def _add(call: ImportCall) -> Value:
    """The sum of two layers, or a bias."""
    if all(name in call.graph.values for name in call.inputs):
        left, right = call.value(0), call.value(1)
        if left.axes != right.axes or left.shape != right.shape or not (left.plain and right.plain):
            call.refuse(f"it adds {left.sides} and {right.sides}", "add tensors of one shape")
        return call.layer(Op.ADD, [left, right])
    at = 0 if call.inputs[0] in call.graph.values else 1
    value, constant = call.value(at), call.floats(1 - at)
    if constant is not None and not constant.any() and constant.size == 1:
        return value
    channels = _of_channels(value, constant)
    if channels is not None and value.plain and call.sole(call.inputs[at]):
        found = call.graph.with_bias(value, channels)
        if found is not None:
            return found
    return call.refuse("it adds a constant", "only a bias behind a convolution or linear layer is read")


def _mul(call: ImportCall) -> Value:
    """The product of two layers, of a layer and a number a channel."""
    if any(name in call.graph.constants for name in call.inputs):
        at = 0 if call.inputs[0] in call.graph.values else 1
        constant = call.floats(1 - at)
        if constant is not None and (constant == 1.0).all() and constant.size == 1:
            return call.value(at)
        call.refuse("it scales by a constant", "put it into the weights; tinyfleet normalises a run's data itself")
    whole, factor = sorted((call.value(0), call.value(1)), key=lambda value: -len(value.shape))
    if not (whole.plain and factor.plain) or (factor.axes != whole.axes and factor.axes[:2] != (BATCH, CHANNELS)):
        call.refuse(
            f"it multiplies {whole.sides} by {factor.sides}", "multiply by one of its shape, or one a channel"
        )
    return replace(call.layer(Op.MUL, [whole, factor]), axes=whole.axes)


def _of_channels(value: Value, constant: FloatArray | None) -> FloatArray | None:
    """A constant as a number a channel of ``value``, where it is that."""
    if constant is None or constant.ndim > len(value.axes):
        return None
    sides = (1,) * (len(value.axes) - constant.ndim) + constant.shape
    channels = value.axes.index(CHANNELS)
    if any(side != 1 for axis, side in enumerate(sides) if axis != channels):
        return None
    return np.broadcast_to(constant.ravel(), value.shape[:1]) if constant.size in (1, value.shape[0]) else None


OPERATORS: Mapping[str, Callable[[ImportCall], Value | list[Value]]] = MappingProxyType(
    {
        "Conv": windows.conv,
        "Gemm": _linear,
        "MatMul": _linear,
        "BatchNormalization": _batch_norm,
        "Relu": _activation(Op.RELU),
        "Clip": _clip,
        "LeakyRelu": _leaky_relu,
        "HardSwish": _activation(Op.HARD_SWISH),
        "HardSigmoid": _hard_sigmoid,
        "Sigmoid": _activation(Op.SIGMOID),
        "Tanh": _activation(Op.TANH),
        "Add": _add,
        "Mul": _mul,
        "Concat": shapes.concat,
        "Slice": shapes.cut,
        "Split": shapes.split,
        "Resize": shapes.resize,
        "Upsample": shapes.resize,
        "MaxPool": windows.max_pool,
        "AveragePool": windows.avg_pool,
        "GlobalAveragePool": windows.global_avg_pool,
        "ReduceMean": windows.reduce_mean,
        "Pad": windows.pad,
        "Flatten": shapes.flatten,
        "Reshape": shapes.reshape,
        "Squeeze": shapes.squeeze,
        "Unsqueeze": shapes.unsqueeze,
        "Transpose": shapes.transpose,
        "Identity": shapes.same,
        "Dropout": shapes.same,
        "Cast": shapes.same,
    }
)

WAYS_OUT: Mapping[str, str] = MappingProxyType(
    {
        "PRelu": "use ReLU, or a leaky ReLU",
        "Elu": "use ReLU",
        "Selu": "use ReLU",
        "Gelu": "use hard swish",
        "Erf": "use hard swish instead of GELU",
        "GlobalMaxPool": "use a global average pool",
        "InstanceNormalization": "use batch norm",
        "LayerNormalization": "use batch norm",
        "GroupNormalization": "use batch norm",
        "LRN": "use batch norm",
        "LSTM": "use one-dimensional convolutions",
        "GRU": "use one-dimensional convolutions",
        "RNN": "use one-dimensional convolutions",
        "ConvTranspose": "use a nearest upsampling and a convolution",
        "DepthToSpace": "use a nearest upsampling and a convolution",
        "Sub": "put it into the weights; tinyfleet normalises a run's data itself",
        "Div": "put it into the weights; tinyfleet normalises a run's data itself",
        "QuantizeLinear": "export the model in float32: tinyfleet quantises at the end",
        "DequantizeLinear": "export the model in float32: tinyfleet quantises at the end",
        "QLinearConv": "export the model in float32: tinyfleet quantises at the end",
        "Softmax": "it is read as the last operator alone",
        "LogSoftmax": "it is read as the last operator alone",
        "If": "export the model without branches",
        "Loop": "export the model without loops",
    }
)
"""For operators that are not read."""
