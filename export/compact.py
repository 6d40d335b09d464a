"""Remove channels that do nothing, so that a sparse model's file is smaller and faster in ordinary runtimes.

Three facts, used until nothing changes:

- A filter without weights gives a constant, its bias, and so do the ReLU and the pool after it.
- A reader takes a constant channel into its own bias, if it pads nothing: at a padded border the constant is
  zero. A padded reader takes all constant channels in from one of them, with the weights summed in proportion.
- A channel that no reader has a weight for goes, filter and all. An addition, an activation, a pool or a
  depthwise convolution has its channels in common with its inputs, and so, under other numbers, has what moves
  channels: a channel goes from all tensors that have it, or from none.

The outputs are the same but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyfleet.export.errors import ExportError
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.fedcore.arrays import BoolArray
from tinyfleet.fedcore.models.graph import INPUT
from tinyfleet.fedcore.models.layers.kind import Channels, Flow
from tinyfleet.fedcore.models.layers.table import kind_of, known

Numbers = NDArray[np.float64]
Ints = NDArray[np.int64]
Scalar = TypeVar("Scalar", np.float64, np.int64)


def compact(model: Inference) -> Inference:
    """The model without dead channels; at least one stays in every layer, and all of the input and output."""
    while True:
        smaller = _without_unread(_absorb_constants(model))
        if all(a.shape == b.shape for a, b in zip(model.layers, smaller.layers, strict=True)):
            return smaller
        model = smaller


def multiply_adds(model: Inference) -> int:
    """Multiply-adds of one sample in conv and linear layers, zero weights included; two FLOPs each."""
    return sum(layer.weight.size * math.prod(layer.shape[1:]) for layer in model.layers if layer.weight is not None)


def _absorb_constants(model: Inference) -> Inference:
    """Every weight that reads a constant moves into a bias, or onto one constant channel of the layer's input."""
    # Value of every channel of a tensor, NaN where it is not one number everywhere for every input.
    constants: dict[str, Numbers] = {INPUT: np.full(model.input_shape[0], np.nan)}
    layers = []
    for layer in model.layers:
        sources = [constants[name] for name in layer.inputs]
        absorbs = layer.weight is not None and not _opaque(model, layer)
        layers.append(_absorb(layer, sources[0]) if absorbs else layer)
        constants[layer.name] = _constants(model, layers[-1], sources)
    return replace(model, layers=tuple(layers))


def _constants(model: Inference, layer: Layer, sources: list[Numbers]) -> Numbers:
    if _opaque(model, layer):
        return np.full(layer.shape[0], np.nan)
    if layer.weight is not None:
        weight, bias = _arrays(layer, len(sources[0]))
        return np.where(weight.any(axis=(1, 2)), np.nan, bias)
    if _flow(layer) is Flow.MOVED:
        return moved(layer, sources)
    constant = _channels(layer).constant
    # A flat layer's channels are counted as those of its source are.
    return np.full(len(sources[0]), np.nan) if constant is None else constant(sources)


def _absorb(layer: Layer, source: Numbers) -> Layer:
    """The layer without weights for zeros, and with as few as can be for other constants."""
    weight, bias = _arrays(layer, len(source))
    # A dense layer has a weight for every input channel, a depthwise one for its own: then the rows are inputs.
    inputs = np.moveaxis(weight, 0, 1) if _depthwise(layer) else weight
    inputs[:, source == 0.0] = 0.0
    lone = ~np.isnan(source) & (source != 0.0)
    if lone.any() and not any(layer.node.padding):
        moved = inputs[:, lone].sum(axis=2) * source[lone]
        if _depthwise(layer):
            bias[lone] += moved[0]
        else:
            bias += moved.sum(axis=1)
        inputs[:, lone] = 0.0
    elif lone.any() and not _depthwise(layer):
        # The same channel for every reader of this tensor; the largest, so that no weight grows by division.
        chosen = int(np.argmax(np.where(lone, np.abs(source), 0.0)))
        merged = (inputs[:, lone] * (source[lone] / source[chosen])[:, None]).sum(axis=1)
        inputs[:, lone] = 0.0
        inputs[:, chosen] = merged
    return _with(layer, weight, bias)


def _without_unread(model: Inference) -> Inference:
    """The model without the channels that no layer has a weight for."""
    channels = _channels_in_common(model)
    keep = np.zeros(1 + max(int(numbers.max()) for numbers in channels.values()), np.bool_)
    for name in (INPUT, model.output):
        keep[channels[name]] = True
    for layer in model.layers:
        if _opaque(model, layer):
            for name in (*layer.inputs, layer.name):
                keep[channels[name]] = True
        elif layer.weight is not None and not _depthwise(layer):
            read = channels[layer.inputs[0]]
            keep[read[_arrays(layer, len(read))[0].any(axis=(0, 2))]] = True
    for numbers in channels.values():
        keep[numbers[0]] |= not keep[numbers].any()
    kept = {name: keep[numbers] for name, numbers in channels.items()}
    layers = (
        layer if _opaque(model, layer) else _shrunk(layer, [kept[name] for name in layer.inputs], kept[layer.name])
        for layer in model.layers
    )
    return replace(model, layers=tuple(layers))


def _shrunk(layer: Layer, sources: Sequence[BoolArray], outputs: BoolArray) -> Layer:
    count, inputs = int(outputs.sum()), sources[0]
    if _flow(layer) is Flow.FLAT:
        return replace(layer, shape=(count * (layer.shape[0] // len(outputs)),))
    layer = replace(layer, shape=(count, *layer.shape[1:]))
    if layer.weight is None:
        shrunk = _channels(layer).shrunk
        return layer if shrunk is None else replace(layer, node=shrunk(layer.node, sources))
    weight, bias = _arrays(layer, len(inputs))
    weight = weight[outputs] if _depthwise(layer) else weight[outputs][:, inputs]
    columns = weight[0].size if _of_vectors(layer) else int(inputs.sum())
    groups = count if _depthwise(layer) else 1
    node = replace(layer.node, in_channels=columns, out_channels=count, groups=groups)
    return replace(_with(layer, weight, bias[outputs]), node=node)


def _channels_in_common(model: Inference) -> dict[str, Ints]:
    """A number for every channel of every tensor, the same for those that stay or go together."""
    channels = {INPUT: np.arange(model.input_shape[0])}
    fresh = model.input_shape[0]
    for layer in model.layers:
        sources = [channels[name] for name in layer.inputs]
        if _opaque(model, layer) or (layer.weight is not None and not _depthwise(layer)):
            channels[layer.name] = np.arange(fresh, fresh + layer.shape[0])
            fresh += layer.shape[0]
            continue
        if _flow(layer) is Flow.MOVED:
            channels[layer.name] = moved(layer, sources)
            ties = [channels[layer.name][list(tie)] for tie in _channels(layer).ties(layer.node, layer.shape[0])]
        else:
            channels[layer.name] = sources[0]
            ties = list(np.stack(sources, axis=1)) if len(sources) > 1 else []
        channels = _tied(channels, ties, fresh)
    return channels


def _tied(channels: dict[str, Ints], ties: Sequence[Ints], count: int) -> dict[str, Ints]:
    """The same with the numbers of each tie made one, of ``count`` numbers."""
    if not ties:
        return channels
    one = np.arange(count)
    for tie in ties:
        numbers = one[tie]
        one[np.isin(one, numbers)] = numbers.min()
    return {name: one[numbers] for name, numbers in channels.items()}


def moved(layer: Layer, sources: Sequence[NDArray[Scalar]]) -> NDArray[Scalar]:
    """What a layer that moves channels makes of a number a channel. Raises ``UnsupportedLayer``."""
    places = known(_channels(layer).places, layer.node, "compaction", "export without it")
    return np.array([sources[source][channel] for source, channel in places(layer.node, [len(s) for s in sources])])


def _depthwise(layer: Layer) -> bool:
    return layer.weight is not None and _flow(layer) is Flow.OWN


def _opaque(model: Inference, layer: Layer) -> bool:
    """Whether a layer is left as it is, with all channels before and after it."""
    flow = _flow(layer)
    if flow is not Flow.FLAT:
        return flow is Flow.WHOLE
    # Only weights say which of a flat image's numbers are one channel.
    readers = [reader for reader in model.layers if layer.name in reader.inputs]
    return layer.name == model.output or not all(_of_vectors(reader) for reader in readers)


def _of_vectors(layer: Layer) -> bool:
    """Whether it has a weight for every number of a vector."""
    return layer.weight is not None and layer.weight.ndim == 2


def _flow(layer: Layer) -> Flow:
    return _channels(layer).flow(layer.node)


def _channels(layer: Layer) -> Channels:
    return known(kind_of(layer.node).channels, layer.node, "compaction", "export without it")


def _arrays(layer: Layer, channels: int) -> tuple[Numbers, Numbers]:
    """Copies of weights (out, in, positions) and bias; a linear layer may read several positions a channel."""
    if layer.weight is None or layer.bias is None:
        raise ExportError(f"layer {layer.name} has no weights to compact")
    rows = len(layer.weight)
    weight = layer.weight.reshape(rows, 1 if _depthwise(layer) else channels, -1)
    return weight.astype(np.float64), layer.bias.astype(np.float64)


def _with(layer: Layer, weight: Numbers, bias: Numbers) -> Layer:
    shape = (len(weight), -1) if _of_vectors(layer) else (*weight.shape[:2], *layer.node.kernel)
    return replace(layer, weight=weight.reshape(shape).astype(np.float32), bias=bias.astype(np.float32))
