"""TFLite files from the inference layers: NHWC input, explicit padding where PyTorch's is not SAME.

One-dimensional models become two-dimensional with height 1. The batch is free.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.tflite.file import TfliteFile
from tinyfleet.export.formats.tflite.precision import Float, Precision
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.fedcore.models.graph import INPUT, Op

ACTIVATIONS = {Op.RELU: "RELU", Op.RELU6: "RELU6"}
_FUSING = (Op.CONV, Op.LINEAR, Op.ADD)


def spatial2(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """(height, width) of a one- or two-dimensional setting."""
    height, width = values if len(values) == 2 else (fill, values[0])
    return height, width


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) -> (H, W, C), (C, L) -> (1, L, C), (C,) -> (C,)."""
    if len(shape) == 1:
        return shape
    return (*spatial2(shape[1:], 1), shape[0])


class TfliteWriter:
    """Writes one model at one precision."""

    def __init__(self, model: Inference, precision: Precision | None = None) -> None:
        self._model = model
        self._file = TfliteFile(f"{model.name}, written by tinyfleet")
        self._precision = precision or Float()
        self._tensors: dict[str, int] = {}  # layer name -> tensor of its output
        self._flattened: dict[str, tuple[int, ...]] = {}  # flat layer -> shape that it was made from
        self._shapes = {INPUT: model.input_shape} | {layer.name: layer.shape for layer in model.layers}

    def write(self) -> bytes:
        """The file. Raises ``ExportError`` for a layer that TFLite cannot express."""
        readers = self._model.readers()
        image = channels_last(self._model.input_shape)
        entry = self._file.activation("input", image)
        self._tensors[INPUT] = self._precision.enter(self._file, entry, image)
        fused: set[str] = set()
        layers = self._model.layers
        for layer in layers:
            if layer.name in fused:
                continue
            activation = None
            if layer.op in _FUSING and readers[layer.name] == 1:
                activation = next((n for n in layers if n.inputs == (layer.name,) and n.op in ACTIVATIONS), None)
            name = activation.name if activation else layer.name
            fused.add(name)
            output = self._activation(name)
            self._layer(layer, output, ACTIVATIONS[activation.op] if activation else "NONE")
            self._tensors[layer.name] = self._tensors[name] = output
        logits = self._precision.leave(self._file, self._tensors[self._model.output], self._model.classes)
        return self._file.to_bytes([entry], [logits])

    def _activation(self, name: str, shape: tuple[int, ...] | None = None, like: str | None = None) -> int:
        """A tensor for a layer's output (or of ``shape``), quantised as layer ``like`` is."""
        shape = channels_last(self._shapes[name]) if shape is None else shape
        return self._precision.activation(self._file, name, like or name, shape)

    # -- layers -------------------------------------------------------------------------

    def _layer(self, layer: Layer, output: int, activation: str) -> None:
        inputs = [self._tensors[name] for name in layer.inputs]
        fused = getattr(self._file.schema.ActivationFunctionType, activation)
        match layer.op:
            case Op.CONV:
                self._conv(layer, inputs[0], output, fused)
            case Op.LINEAR:
                self._linear(layer, inputs[0], output, fused)
            case Op.ADD:
                self._emit("ADD", inputs, output, self._file.options("AddOptions", fusedActivationFunction=fused))
            case Op.RELU | Op.RELU6:
                self._emit(ACTIVATIONS[layer.op], inputs, output)
            case Op.MAX_POOL:
                self._max_pool(layer, inputs[0], output)
            case Op.GLOBAL_AVG_POOL:
                axes = self._file.constant(f"{layer.name}/axes", np.array([1, 2], np.int32))
                self._emit("MEAN", [*inputs, axes], output, self._file.options("ReducerOptions", keepDims=False))
            case Op.FLATTEN:
                self._flatten(layer, inputs[0], output)
            case _:
                raise ExportError(f"layer {layer.name} ({layer.op}) has no TFLite operator here")

    def _emit(self, kind: str, inputs: list[int], output: int, options: Any = None) -> None:
        self._file.operator(kind, inputs, [output], self._precision.version(kind), options)

    def _conv(self, layer: Layer, source: int, output: int, fused: int) -> None:
        node, weight = layer.node, _some(layer.weight)
        depthwise = node.groups > 1
        if depthwise and node.groups != node.in_channels:
            raise ExportError(f"{layer.name}: {node.groups} groups; TFLite here knows 1 or one a channel")
        weight = weight if weight.ndim == 4 else weight[:, :, None, :]  # (out, in / groups, h, w)
        # TFLite: (out, h, w, in), depthwise (1, h, w, out).
        weight = weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1)
        source, padding = self._padded(layer, source)
        stride_h, stride_w = spatial2(node.stride, 1)
        common = {
            "padding": padding,
            "strideH": stride_h,
            "strideW": stride_w,
            "dilationHFactor": 1,
            "dilationWFactor": 1,
            "fusedActivationFunction": fused,
        }
        axis = 3 if depthwise else 0
        constants = self._precision.weights(self._file, layer, weight, axis)
        if depthwise:
            options = self._file.options(
                "DepthwiseConv2DOptions", depthMultiplier=node.out_channels // node.in_channels, **common
            )
            self._emit("DEPTHWISE_CONV_2D", [source, *constants], output, options)
        else:
            self._emit("CONV_2D", [source, *constants], output, self._file.options("Conv2DOptions", **common))

    def _linear(self, layer: Layer, source: int, output: int, fused: int) -> None:
        weight = _some(layer.weight)
        before = self._flattened.get(layer.inputs[0])
        if before is not None:
            # Columns were channel-major; the flattened NHWC tensor is channel-minor.
            channels, spatial = before[0], math.prod(before[1:])
            weight = weight.reshape(-1, channels, spatial).transpose(0, 2, 1).reshape(len(weight), -1)
        constants = self._precision.weights(self._file, layer, weight, None)
        options = self._file.options("FullyConnectedOptions", fusedActivationFunction=fused)
        self._emit("FULLY_CONNECTED", [source, *constants], output, options)

    def _max_pool(self, layer: Layer, source: int, output: int) -> None:
        node = layer.node
        if any(node.padding) and not self._never_negative(layer.inputs[0]):
            raise ExportError(f"{layer.name}: a padded pool of values that may be negative; put a ReLU before it")
        source, padding = self._padded(layer, source)
        (height, width), (stride_h, stride_w) = spatial2(node.kernel, 1), spatial2(node.stride, 1)
        options = self._file.options(
            "Pool2DOptions",
            padding=padding,
            strideH=stride_h,
            strideW=stride_w,
            filterHeight=height,
            filterWidth=width,
        )
        self._emit("MAX_POOL_2D", [source], output, options)

    def _flatten(self, layer: Layer, source: int, output: int) -> None:
        before = self._shapes[layer.inputs[0]]
        if len(before) > 1:
            odd = [n.name for n in self._model.layers if layer.name in n.inputs and n.op is not Op.LINEAR]
            if odd or self._model.output == layer.name:
                raise ExportError(f"{layer.name}: a flattened image must go into linear layers, not {odd}")
            self._flattened[layer.name] = before
        shape = np.array([-1, math.prod(before)], np.int32)
        target = self._file.constant(f"{layer.name}/shape", shape)
        self._emit("RESHAPE", [source, target], output, self._file.options("ReshapeOptions", newShape=shape))

    def _padded(self, layer: Layer, source: int) -> tuple[int, int]:
        """(tensor to read, TFLite padding). SAME only where it means what PyTorch's padding does."""
        node, kinds = layer.node, self._file.schema.Padding
        kernel, stride, padding = spatial2(node.kernel, 1), spatial2(node.stride, 1), spatial2(node.padding, 0)
        if not any(padding):
            return source, kinds.VALID
        if stride == (1, 1) and all(2 * p == k - 1 for p, k in zip(padding, kernel, strict=True)):
            return source, kinds.SAME
        height, width, channels = channels_last(self._shapes[layer.inputs[0]])
        shape = (height + 2 * padding[0], width + 2 * padding[1], channels)
        name = f"{layer.name}/padded"
        target = self._activation(name, shape, like=layer.inputs[0])
        amounts = np.array([[0, 0], [padding[0]] * 2, [padding[1]] * 2, [0, 0]], np.int32)
        self._emit("PAD", [source, self._file.constant(f"{name}/amounts", amounts)], target)
        return target, kinds.VALID

    def _never_negative(self, name: str) -> bool:
        ops = {layer.name: layer for layer in self._model.layers}
        layer = ops.get(name)
        if layer is not None and layer.op is Op.MAX_POOL:
            return self._never_negative(layer.inputs[0])
        return layer is not None and layer.op in ACTIVATIONS


def _some(array: Any) -> Any:
    if array is None:
        raise ExportError("a layer that needs weights has none")
    return array


def write_tflite(model: Inference, precision: Precision | None = None) -> bytes:
    """The model as a TFLite file; float32 unless a precision is given. Raises ``ExportError``."""
    return TfliteWriter(model, precision).write()
