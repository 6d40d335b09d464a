"""Lowering, forwards: layers become operations on stored tensors.

Only convolutions, sums and pools store what they compute. Batch norm and activations are readings of a stored
tensor, applied by whoever reads it: they cost no memory and no pass of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from sparse_engine import _core
from sparse_engine.layers import INPUT, Layer, Model, ModelError, Op
from sparse_engine.program.geometry import corner, pool_shape, taken, three, tile_shape
from sparse_engine.program.memory import Buffer
from sparse_engine.program.tape import Emitter, Reading, Tape

ACTS = {
    Op.RELU: _core.Act.relu,
    Op.RELU6: _core.Act.relu6,
    Op.LEAKY_RELU: _core.Act.leaky,
    Op.HARD_SWISH: _core.Act.hardswish,
    Op.HARD_SIGMOID: _core.Act.hardsigmoid,
    Op.SIGMOID: _core.Act.sigmoid,
    Op.TANH: _core.Act.tanh,
}
TOLD_BY_OUTPUT = frozenset({Op.RELU, Op.RELU6})
"""Activations whose derivative their output tells, so that a sum may be stored after them."""
TOLD_BY_BITS = frozenset({_core.Act.none, _core.Act.relu, _core.Act.relu6, _core.Act.leaky})
"""Activations whose derivative is one of few numbers: of all others the values are needed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that some layer stored, and from what: what the backward pass goes back over."""

    kind: str  # conv, combine, mul, pool, concat, channels, crop, upsample, dropout
    out: Buffer
    sources: tuple[Reading, ...]
    layer: Layer
    act: _core.Act = _core.Act.none
    gain: float = 1.0
    stream: int = 0  # dropout's


@dataclass(slots=True)
class Lowered:
    """A model's forward pass."""

    tape: Tape
    input: Buffer
    output: Buffer
    stored: list[Stored] = field(default_factory=list)


class Forward:
    """Lowers one model. ``training``: batch statistics and dropout; else running statistics and none."""

    def __init__(self, model: Model, training: bool) -> None:
        self._model = model
        self._training = training
        self._shapes = model.shapes()
        self._readers = Counter(name for layer in model.layers for name in layer.inputs)
        self._sole: dict[str, Layer] = {}
        for layer in model.layers:
            for name in layer.inputs:
                if self._readers[name] == 1:
                    self._sole[name] = layer
        self._tape = Tape()
        self._values: dict[str, Reading] = {}
        self._stored: list[Stored] = []
        self._fused: set[str] = set()  # activations that a sum includes
        self._norms_done: set[str] = set()  # norms whose statistics a convolution took

    def lower(self) -> Lowered:
        shape = self._shapes[INPUT]
        image = self._tape.buffer(*three(shape))
        self._tape.inputs.append(image)
        self._values[INPUT] = Reading(image)
        for layer in self._model.layers:
            sources = [self._values[name] for name in layer.inputs]
            if layer.name in self._fused:
                self._values[layer.name] = sources[0]
            else:
                self._values[layer.name] = self._layer(layer, sources)
        output = self._plain(self._values[self._model.layers[-1].name], self._model.layers[-1])
        self._tape.outputs.append(output)
        return Lowered(self._tape, image, output, self._stored)

    def _layer(self, layer: Layer, sources: list[Reading]) -> Reading:
        match layer.op:
            case Op.CONV | Op.LINEAR:
                return self._convolution(layer, sources[0])
            case Op.BATCH_NORM:
                return self._batch_norm(layer, sources[0])
            case Op.ADD:
                return self._add(layer, sources)
            case Op.MAX_POOL | Op.AVG_POOL | Op.GLOBAL_AVG_POOL:
                return self._pool(layer, sources[0])
            case Op.FLATTEN:
                return self._flatten(self._plain(sources[0], layer))
            case Op.MUL:
                return self._mul(layer, sources)
            case Op.CONCAT:
                return self._concat(layer, sources)
            case Op.SLICE | Op.SHUFFLE:
                return self._take(layer, sources[0])
            case Op.CROP:
                return self._crop(layer, sources[0])
            case Op.UPSAMPLE:
                return self._upsample(layer, self._plain(sources[0], layer))
            case Op.DROPOUT:
                return self._dropout(layer, sources[0])
            case _:
                first = sources[0]
                if first.act != _core.Act.none or first.gain != 1.0:
                    first = Reading(self._plain(first, layer))
                return Reading(first.buffer, first.norm, ACTS[layer.op], layer.gain)

    def _plain(self, reading: Reading, layer: Layer) -> Buffer:
        """The buffer that holds just this value; stored now where none does."""
        if reading.plain:
            return reading.buffer
        out = self._tape.like(reading.buffer)
        self._tape.add(
            lambda e: e.program.combine(e.view(reading), _core.View(), e.tensor(out)), [reading.buffer, out]
        )
        self._stored.append(Stored("combine", out, (reading,), layer))
        return out

    def _flatten(self, buffer: Buffer) -> Reading:
        if buffer.height == buffer.width == 1:
            return Reading(buffer)
        return Reading(self._tape.buffer(buffer.values, 1, 1, root=buffer))

    def _convolution(self, layer: Layer, source: Reading) -> Reading:
        if layer.op is Op.LINEAR and source.buffer.height * source.buffer.width > 1:
            source = self._flatten(self._plain(source, layer))
        out = self._tape.buffer(*three(self._shapes[layer.name]))
        following = self._sole.get(layer.name)
        norm = following.name if self._training and following and following.op is Op.BATCH_NORM else ""

        def emit(e: Emitter) -> None:
            e.program.forward(e.convolution(layer, source.buffer, out), e.view(source), e.tensor(out), e.norm(norm))

        self._tape.add(emit, [source.buffer, out])
        if norm:
            self._norms_done.add(norm)
        self._stored.append(Stored("conv", out, (source,), layer))
        return Reading(out)

    def _batch_norm(self, layer: Layer, source: Reading) -> Reading:
        buffer = self._plain(source, layer)
        if buffer.root is not None:
            raise ModelError(f"layer {layer.name!r} (batch_norm) reads a flattened image; put it before that")
        if not self._training:
            self._tape.add(lambda e: e.program.running_statistics(e.norm(layer.name)), [])
        elif layer.name not in self._norms_done:
            self._tape.add(lambda e: e.program.batch_statistics(e.tensor(buffer), e.norm(layer.name)), [buffer])
        return Reading(buffer, layer.name)

    def _add(self, layer: Layer, sources: list[Reading]) -> Reading:
        a, b = sources
        following = self._sole.get(layer.name)
        act, gain = _core.Act.none, 1.0
        if following and following.op in TOLD_BY_OUTPUT:
            act, gain = ACTS[following.op], following.gain
            self._fused.add(following.name)
        out = self._tape.like(a.buffer)
        self._tape.add(
            lambda e: e.program.combine(e.view(a), e.view(b), e.tensor(out), act, gain), [a.buffer, b.buffer, out]
        )
        self._stored.append(Stored("combine", out, (a, b), layer, act, gain))
        return Reading(out)

    def _pool(self, layer: Layer, source: Reading) -> Reading:
        out = self._tape.buffer(*three(self._shapes[layer.name]))
        shape = pool_shape(layer, source.buffer)
        largest = layer.op is Op.MAX_POOL
        self._tape.add(
            lambda e: e.program.pool(e.view(source), e.tensor(out), shape, largest), [source.buffer, out]
        )
        self._stored.append(Stored("pool", out, (source,), layer))
        return Reading(out)

    def _mul(self, layer: Layer, sources: list[Reading]) -> Reading:
        a, b = sources
        out = self._tape.like(a.buffer)
        self._tape.add(lambda e: e.program.multiply(e.view(a), e.view(b), e.tensor(out)), [a.buffer, b.buffer, out])
        self._stored.append(Stored("mul", out, (a, b), layer))
        return Reading(out)

    def _take(self, layer: Layer, source: Reading) -> Reading:
        out = self._tape.buffer(*three(self._shapes[layer.name]))
        channels = taken(layer, source.buffer.channels)
        self._tape.add(lambda e: e.program.take(e.view(source), e.tensor(out), channels), [source.buffer, out])
        self._stored.append(Stored("channels", out, (source,), layer))
        return Reading(out)

    def _crop(self, layer: Layer, source: Reading) -> Reading:
        out, (top, left) = self._tape.buffer(*three(self._shapes[layer.name])), corner(layer)
        self._tape.add(lambda e: e.program.crop(e.view(source), e.tensor(out), top, left), [source.buffer, out])
        self._stored.append(Stored("crop", out, (source,), layer))
        return Reading(out)

    def _upsample(self, layer: Layer, source: Buffer) -> Reading:
        """As a mean's gradient would be: a share of the value everywhere in its window, read times its size."""
        out, shape = self._tape.buffer(*three(self._shapes[layer.name])), tile_shape(layer)

        def emit(e: Emitter) -> None:
            e.program.pool_gradient(e.tensor(source), _core.View(e.tensor(out)), e.tensor(out), shape, False)

        self._tape.add(emit, [source, out])
        self._stored.append(Stored("upsample", out, (Reading(source),), layer))
        return Reading(out, gain=float(math.prod(layer.kernel)))

    def _concat(self, layer: Layer, sources: list[Reading]) -> Reading:
        out = self._tape.buffer(*three(self._shapes[layer.name]))
        first = 0
        for source in sources:

            def emit(e: Emitter, source: Reading = source, first: int = first) -> None:
                e.program.concatenate(e.view(source), e.tensor(out), first)

            self._tape.add(emit, [source.buffer, out])
            first += source.buffer.channels
        self._stored.append(Stored("concat", out, tuple(sources), layer))
        return Reading(out)

    def _dropout(self, layer: Layer, source: Reading) -> Reading:
        if not self._training or layer.rate == 0.0:
            return source
        out = self._tape.like(source.buffer)
        stream = [node.name for node in self._model.layers].index(layer.name)

        def emit(e: Emitter) -> None:
            e.program.combine(e.view(source), _core.View(), e.tensor(out))
            e.program.dropout(e.tensor(out), layer.rate, stream)

        self._tape.add(emit, [source.buffer, out])
        self._stored.append(Stored("dropout", out, (source,), layer, stream=stream))
        return Reading(out)
