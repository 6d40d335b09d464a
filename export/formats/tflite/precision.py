"""How numbers are stored in a TFLite file: float32, float16 weights, or int8 throughout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats.tflite.file import Quantization, TfliteFile
from tinyfleet.export.inference_graph import Layer
from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.models.graph import INPUT

# Leaves 127 / 128 of int32 to the sum of products that the bias is added to, and keeps a bias to 24 bits.
MOST_BIAS_STEPS = 2**24


class Precision(Protocol):
    """What the writer asks at each point where precisions differ."""

    def enter(self, file: TfliteFile, entry: int, shape: tuple[int, ...]) -> int:
        """From the float input, of ``shape`` without the batch, to the first layer's input."""
        ...

    def leave(self, file: TfliteFile, last: int, classes: int) -> int:
        """From the last layer's output to float logits."""
        ...

    def activation(self, file: TfliteFile, name: str, like: str, shape: tuple[int, ...]) -> int: ...

    def alike(self, file: TfliteFile, tensor: int, name: str, like: str, shape: tuple[int, ...]) -> int:
        """Layer ``name``'s output ``tensor`` in the numbers of layer ``like``."""
        ...

    def numbers(self, file: TfliteFile, name: str, values: FloatArray) -> int:
        """A constant of positive numbers."""
        ...

    def lowest(self, file: TfliteFile, name: str, like: str) -> int:
        """A constant that is the lowest number there is, of those of layer ``like``."""
        ...

    def weights(self, file: TfliteFile, layer: Layer, weight: FloatArray, axis: int | None) -> list[int]:
        """Weight and bias tensors; ``axis`` is the output channel's, None for one scale in all."""
        ...

    def version(self, kind: str) -> int: ...


class Float:
    """Float32 throughout; weights in float16 where ``half``, widened when the file is loaded."""

    def __init__(self, half: bool = False) -> None:
        self._half = half

    def enter(self, file: TfliteFile, entry: int, shape: tuple[int, ...]) -> int:
        return entry

    def leave(self, file: TfliteFile, last: int, classes: int) -> int:
        return last

    def activation(self, file: TfliteFile, name: str, like: str, shape: tuple[int, ...]) -> int:
        return file.activation(name, shape)

    def alike(self, file: TfliteFile, tensor: int, name: str, like: str, shape: tuple[int, ...]) -> int:
        return tensor

    def numbers(self, file: TfliteFile, name: str, values: FloatArray) -> int:
        return file.constant(name, values)

    def lowest(self, file: TfliteFile, name: str, like: str) -> int:
        return file.constant(name, np.array([np.finfo(np.float32).min], np.float32))

    def weights(self, file: TfliteFile, layer: Layer, weight: FloatArray, axis: int | None) -> list[int]:
        name = layer.node.weight
        bias = file.constant(f"{layer.name}.bias", layer.bias)  # type: ignore[arg-type]
        if not self._half:
            return [file.constant(name, weight), bias]
        if float(np.abs(weight).max(initial=0.0)) > float(np.finfo(np.float16).max):
            raise ExportError(f"{name}: a weight is beyond float16; export it as fp32")
        stored = file.constant(f"{name}/fp16", weight.astype(np.float16))
        wide = file.computed(name, weight.shape)
        file.operator("DEQUANTIZE", [stored], [wide], version=3)
        return [wide, bias]

    def version(self, kind: str) -> int:
        return 1


class Int8:
    """Full integer: weights symmetric, one scale an output channel; activations asymmetric by their ranges.

    Input and output stay float: a quantise step at the front and a dequantise step at the end, so that
    an int8 file takes the place of a float one. ``ranges``: (min, max) of every layer's output.
    """

    VERSIONS: ClassVar[dict[str, int]] = {
        "CONV_2D": 3,
        "DEPTHWISE_CONV_2D": 3,
        "FULLY_CONNECTED": 4,
        "ADD": 2,
        "AVERAGE_POOL_2D": 2,
        "CONCATENATION": 2,
        "HARD_SWISH": 1,
        "LEAKY_RELU": 2,
        "LOGISTIC": 2,
        "TANH": 2,
        "SOFTMAX": 2,
        "MUL": 2,
        "SLICE": 2,
        "TRANSPOSE": 2,
        "RESIZE_NEAREST_NEIGHBOR": 2,
        "MAX_POOL_2D": 2,
        "MEAN": 2,
        "PAD": 2,
        "PADV2": 2,
        "RELU": 2,
        "RELU6": 2,
        "DEQUANTIZE": 2,
        "QUANTIZE": 1,
        "RESHAPE": 1,
    }

    def __init__(self, ranges: Mapping[str, tuple[float, float]], same_as: Mapping[str, str]) -> None:
        self._ranges = ranges
        self._same_as = same_as  # pools and reshapes cannot rescale: they share their input's numbers

    def quantization(self, name: str) -> Quantization:
        """Scale and zero point of a layer's output; zero is always represented exactly."""
        while name in self._same_as:
            name = self._same_as[name]
        if name not in self._ranges:
            raise ExportError(f"layer {name} was not calibrated")
        low, high = min(self._ranges[name][0], 0.0), max(self._ranges[name][1], 0.0)
        scale = max(high - low, 1e-6) / 255.0
        return Quantization(np.array(scale), np.array(np.clip(round(-128 - low / scale), -128, 127)))

    def enter(self, file: TfliteFile, entry: int, shape: tuple[int, ...]) -> int:
        inner = self.activation(file, INPUT, INPUT, shape)
        file.operator("QUANTIZE", [entry], [inner])
        return inner

    def leave(self, file: TfliteFile, last: int, classes: int) -> int:
        logits = file.activation("logits", (classes,))
        file.operator("DEQUANTIZE", [last], [logits], version=2)
        return logits

    def activation(self, file: TfliteFile, name: str, like: str, shape: tuple[int, ...]) -> int:
        return file.activation(f"{name}/int8", shape, np.int8, self.quantization(like))

    def alike(self, file: TfliteFile, tensor: int, name: str, like: str, shape: tuple[int, ...]) -> int:
        own, wanted = self.quantization(name), self.quantization(like)
        if (own.scale, own.zero_point) == (wanted.scale, wanted.zero_point):
            return tensor
        scaled = self.activation(file, f"{name}/as {like}", like, shape)
        file.operator("QUANTIZE", [tensor], [scaled])
        return scaled

    def numbers(self, file: TfliteFile, name: str, values: FloatArray) -> int:
        scale = float(values.max()) / 127.0
        stored = np.rint(values / scale).astype(np.int8)
        return file.constant(name, stored, Quantization(np.array(scale), np.array(0)))

    def lowest(self, file: TfliteFile, name: str, like: str) -> int:
        return file.constant(name, np.array([-128], np.int8), self.quantization(like))

    def weights(self, file: TfliteFile, layer: Layer, weight: FloatArray, axis: int | None) -> list[int]:
        others = tuple(i for i in range(weight.ndim) if i != axis)
        peak = np.abs(weight).max() if axis is None else np.abs(weight).max(axis=others)
        exact_bias = np.asarray(layer.bias, np.float64)
        source_scale = float(self.quantization(layer.inputs[0]).scale)
        # Biases are stored in steps of (input scale x weight scale). A dead or nearly dead filter would
        # make that step so small that its bias leaves int32, so the bias sets a floor under the scale.
        peak_bias = np.abs(exact_bias).max() if axis is None else np.abs(exact_bias)
        floor = np.maximum(peak_bias / (source_scale * MOST_BIAS_STEPS), 1e-6 / 127.0)
        scale = np.maximum(np.atleast_1d(peak).astype(np.float64) / 127.0, floor)
        shaped = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        stored = np.clip(np.rint(weight / shaped), -127, 127).astype(np.int8)
        zeros = np.zeros(len(scale), np.int64)
        bias_scale = scale * source_scale
        bias = np.rint(exact_bias / bias_scale).astype(np.int32)
        return [
            file.constant(layer.node.weight, stored, Quantization(scale, zeros, axis or 0)),
            file.constant(f"{layer.name}.bias", bias, Quantization(bias_scale, zeros, 0)),
        ]

    def version(self, kind: str) -> int:
        if kind not in self.VERSIONS:
            raise ExportError(f"TFLite's {kind} is not known in int8 here; export the model in float")
        return self.VERSIONS[kind]
