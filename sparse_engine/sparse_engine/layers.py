"""A model as the engine takes it: a list of layers in execution order, without numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

INPUT = "input"
LARGEST = 2**31 - 1  # values of a layer's output, or of its weight: the engine's offsets have 32 bits
MOST_CHANNELS = 2**24  # that a layer has weights or a norm for


class Op(StrEnum):
    """The kinds of layers."""

    CONV = "conv"  # 1-D or 2-D by len(kernel)
    LINEAR = "linear"
    BATCH_NORM = "batch_norm"
    RELU = "relu"
    RELU6 = "relu6"
    LEAKY_RELU = "leaky_relu"  # slope 0.01
    HARD_SWISH = "hard_swish"
    HARD_SIGMOID = "hard_sigmoid"  # min(max(x + 3, 0), 6) / 6
    SIGMOID = "sigmoid"
    TANH = "tanh"
    ADD = "add"
    MUL = "mul"  # the second may have one value a channel
    CONCAT = "concat"  # along the channels
    SLICE = "slice"  # ``out_channels`` channels from ``start`` on
    SHUFFLE = "shuffle"  # channel j of group i becomes channel i of group j (ShuffleNet)
    CROP = "crop"  # of an image what is not as near to its edges as ``padding`` says
    UPSAMPLE = "upsample"  # each value as often as ``kernel`` says
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"  # padding is not counted in the mean
    GLOBAL_AVG_POOL = "global_avg_pool"
    FLATTEN = "flatten"
    DROPOUT = "dropout"


ACTIVATIONS = frozenset({Op.RELU, Op.RELU6, Op.LEAKY_RELU, Op.HARD_SWISH, Op.HARD_SIGMOID, Op.SIGMOID, Op.TANH})


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. ``inputs`` name earlier layers or ``"input"``.

    ``gain`` multiplies an activation's output. ``weight_norm`` is ``""``, ``"active"`` or ``"all"`` (NSConv:
    FedMef, section 3.3). ``rate`` is dropout's. ``padding`` has one number a dimension, or all those before the
    image and then all those behind it; ``dilation`` is a convolution's, () for none.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    in_channels: int = 0
    out_channels: int = 0
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    weight_norm: str = ""
    gain: float = 1.0
    rate: float = 0.0
    dilation: tuple[int, ...] = ()
    start: int = 0

    @property
    def pads(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(before the image, behind it), a number a dimension each."""
        if len(self.padding) <= len(self.kernel):
            return self.padding, self.padding
        return self.padding[: len(self.kernel)], self.padding[len(self.kernel) :]

    @property
    def spans(self) -> tuple[int, ...]:
        """From a kernel's first tap to its last."""
        dilation = self.dilation or (1,) * len(self.kernel)
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, dilation, strict=True))

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of a convolution (out, in / groups, *kernel), of a linear layer (out, in)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)


class ModelError(ValueError):
    """A model that the engine cannot run; the message names the layer."""


@dataclass(frozen=True)
class Model:
    """Layers in execution order; the last gives the output. ``input_shape`` is (C, H, W), (C, L) or (C,)."""

    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Activation shape after each layer, without the batch. Raises ``ModelError`` where layers do not fit."""
        shapes = {INPUT: self.input_shape}
        if not self.layers or math.prod(self.input_shape) > LARGEST:
            raise ModelError(f"a model needs layers, and images of {LARGEST} values at most")
        if len(self.input_shape) not in (1, 2, 3) or min(self.input_shape) < 1:
            raise ModelError(f"input shape {self.input_shape} is none of (C, H, W), (C, L) and (C,)")
        for layer in self.layers:
            missing = [name for name in layer.inputs if name not in shapes]
            if missing or not layer.inputs or layer.name in shapes:
                raise ModelError(f"layer {layer.name!r} is repeated or reads {missing}, which no earlier layer is")
            shape = shapes[layer.name] = _shape(layer, [shapes[name] for name in layer.inputs])
            if min(shape) < 1 or max(math.prod(shape), math.prod(layer.weight_shape)) > LARGEST:
                raise ModelError(
                    f"layer {layer.name!r} gives {shape}: of no size, or of more than {LARGEST} values"
                )
        return shapes


def _shape(layer: Layer, sources: list[tuple[int, ...]]) -> tuple[int, ...]:
    source = sources[0]

    def check(holds: bool, why: str) -> None:
        if not holds:
            raise ModelError(f"layer {layer.name!r} ({layer.op}) after {source}: {why}")

    check(layer.out_channels <= MOST_CHANNELS, f"has {layer.out_channels} channels, of {MOST_CHANNELS} at most")
    check(layer.groups > 0, "needs a positive number of groups")
    check(layer.weight_norm in ("", "active", "all"), f"weight_norm {layer.weight_norm!r} is not known")
    check(0 <= layer.rate < 1 and math.isfinite(layer.gain), "rate must be in [0, 1), gain finite")
    check(not layer.dilation or layer.op is Op.CONV, "only a convolution has a dilation")
    wanted = {Op.ADD: 2, Op.MUL: 2}.get(layer.op, len(sources) if layer.op is Op.CONCAT else 1)
    check(len(sources) == wanted, f"takes {wanted} inputs, not {len(sources)}")
    match layer.op:
        case Op.MAX_POOL | Op.AVG_POOL:
            return (source[0], *_windows(layer, source, check))
        case Op.CONV:
            spatial = _windows(layer, source, check)
            check(source[0] == layer.in_channels, f"has {layer.in_channels} input channels")
            fits = layer.groups > 0 and not layer.in_channels % layer.groups + layer.out_channels % layer.groups
            check(fits, f"{layer.groups} groups do not divide its channels")
            return (layer.out_channels, *spatial)
        case Op.LINEAR:
            check(math.prod(source) == layer.in_channels, f"has {layer.in_channels} inputs")
            return (layer.out_channels,)
        case Op.GLOBAL_AVG_POOL:
            return (source[0],)
        case Op.FLATTEN:
            return (math.prod(source),)
        case Op.ADD:
            check(sources[1] == source, f"cannot add {sources[1]}")
            return source
        case Op.MUL:
            one = (source[0], *[1] * (len(sources[1]) - 1))
            check(sources[1] in (source, one), f"cannot be multiplied by {sources[1]}")
            return source
        case Op.SLICE:
            check(source[0] == layer.in_channels, f"has {layer.in_channels} input channels")
            fits = 0 <= layer.start <= layer.in_channels - layer.out_channels and layer.out_channels > 0
            check(fits, f"{layer.out_channels} channels from {layer.start} on are not there")
            return (layer.out_channels, *source[1:])
        case Op.SHUFFLE:
            check(source[0] % layer.groups == 0, f"{layer.groups} groups do not divide its channels")
            return source
        case Op.CROP:
            dims = len(source) - 1
            check(dims > 0 and len(layer.padding) == 2 * dims, f"needs {2 * dims} numbers of padding, of an image")
            check(min(layer.padding) >= 0, "what is cut off must be >= 0")
            cut = zip(source[1:], layer.padding[:dims], layer.padding[dims:], strict=True)
            return (source[0], *(size - before - behind for size, before, behind in cut))
        case Op.UPSAMPLE:
            check(len(layer.kernel) == len(source) - 1 > 0, f"needs {len(source) - 1} factors, of an image")
            check(min(layer.kernel) > 0, "factors must be > 0")
            return (source[0], *(size * k for size, k in zip(source[1:], layer.kernel, strict=True)))
        case Op.CONCAT:
            check(all(s[1:] == source[1:] for s in sources), f"cannot join {sources[1:]}")
            return (sum(s[0] for s in sources), *source[1:])
        case Op.BATCH_NORM:
            check(source[0] == layer.out_channels, f"has {layer.out_channels} channels")
            return source
        case _:
            return source


def _windows(layer: Layer, source: tuple[int, ...], check: Callable[[bool, str], None]) -> tuple[int, ...]:
    """How many windows of a convolution or pool there are in each dimension."""
    dims = len(source) - 1
    check(dims > 0, "takes an image")
    fit = len(layer.kernel) == len(layer.stride) == dims and len(layer.padding) in (dims, 2 * dims)
    check(fit, f"kernel, stride and padding need {dims} values each")
    dilated = len(layer.dilation) == dims and min(layer.dilation) > 0
    check(not layer.dilation or dilated, f"dilation needs {dims} values > 0")
    check(min(*layer.kernel, *layer.stride) > 0 and min(layer.padding) >= 0, "kernel and stride must be > 0")
    before, behind = layer.pads
    spatial = tuple(
        (size + b + e - span) // s + 1
        for size, span, s, b, e in zip(source[1:], layer.spans, layer.stride, before, behind, strict=True)
    )
    check(min(spatial) > 0, "the kernel is larger than its padded input")
    if layer.op is not Op.CONV:
        half = all(2 * p <= k for k, p in zip(layer.kernel, before, strict=True))
        check(half, "pooling pads by half of its kernel at most")
        less = all(p < k for k, p in zip(layer.kernel, behind, strict=True))
        check(less, "pooling pads by less than its kernel behind the image")
    return spatial
