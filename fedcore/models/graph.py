"""A model as a list of layers: one description that engines, accounting and exporters all read.

A graph holds no numbers of the trained model and needs no framework: the coordinator counts
FLOPs, the codec learns shapes and the exporters write files without importing torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np

from tinyfleet.fedcore.arrays import Mask, Params


class WeightNorm(StrEnum):
    """How a convolution normalises its own weights before use: NSConv (FedMef, section 3.3)."""

    NONE = ""
    ACTIVE = "active"  # mean and variance of a filter's active entries
    ALL = "all"  # of all its entries, masked ones as the zeros they are


class Op(StrEnum):
    """The layer kinds that every engine and every exporter must know."""

    CONV = "conv"  # 1-D or 2-D by len(kernel); depthwise where groups == in_channels
    LINEAR = "linear"
    BATCH_NORM = "batch_norm"
    RELU = "relu"  # times ``gain``: the variance-preserving ReLU where that is not 1
    RELU6 = "relu6"
    ADD = "add"
    MAX_POOL = "max_pool"
    GLOBAL_AVG_POOL = "global_avg_pool"  # (N, C, *spatial) -> (N, C)
    FLATTEN = "flatten"  # (N, C, *spatial) -> (N, C * prod(spatial)), channel-major


INPUT = "input"
BN_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Node:
    """One layer. ``inputs`` name earlier nodes, or ``"input"`` for the model's input.

    ``gain`` multiplies a ReLU's output (variance preservation); of a convolution with normalised weights it
    is the value at which its filters' learnt gains start.
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
    weight_norm: WeightNorm = WeightNorm.NONE
    gain: float = 1.0

    @property
    def weight(self) -> str:
        """Name of the weight tensor (conv, linear and batch norm)."""
        return f"{self.name}.weight"

    @property
    def filter_gain(self) -> str:
        """Name of the learnt gain of every filter (normalised convolutions)."""
        return f"{self.name}.gain"


class Role(StrEnum):
    """What a named array of the model is for."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM_SCALE = "norm_scale"
    NORM_SHIFT = "norm_shift"
    GAIN = "gain"  # of a filter with normalised weights
    RUNNING_MEAN = "running_mean"
    RUNNING_VAR = "running_var"


STATISTICS = frozenset({Role.RUNNING_MEAN, Role.RUNNING_VAR})


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """Shape and role of one named array. Conv weights are (out, in / groups, *kernel), linear (out, in)."""

    shape: tuple[int, ...]
    role: Role

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Graph:
    """A model: its layers in execution order, and which weights may be pruned in which blocks.

    ``input_shape`` is (C, H, W) or (C, L) without the batch. ``blocks`` are groups of maskable
    layer names ordered from the output to the input, as progressive pruning visits them
    (FedTiny, section 3.3). The last node gives the logits.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    nodes: tuple[Node, ...]
    blocks: tuple[tuple[str, ...], ...]
    arguments: dict[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen = {INPUT}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing or node.name in seen:
                raise ValueError(f"graph {self.name}: node {node.name} is repeated or reads {missing}")
            seen.add(node.name)
        known = {n.name for n in self.nodes if n.op in (Op.CONV, Op.LINEAR)}
        in_blocks = [name for block in self.blocks for name in block]
        if len(set(in_blocks)) != len(in_blocks) or not set(in_blocks) <= known:
            raise ValueError(f"graph {self.name}: blocks must name conv or linear layers once each")

    @property
    def output(self) -> str:
        return self.nodes[-1].name

    @cached_property
    def params(self) -> dict[str, ParamSpec]:
        """Every named array in execution order, buffers included."""
        specs: dict[str, ParamSpec] = {}
        for n in self.nodes:
            if n.op is Op.CONV:
                specs[n.weight] = ParamSpec((n.out_channels, n.in_channels // n.groups, *n.kernel), Role.WEIGHT)
            elif n.op is Op.LINEAR:
                specs[n.weight] = ParamSpec((n.out_channels, n.in_channels), Role.WEIGHT)
            elif n.op is Op.BATCH_NORM:
                per_channel = (n.out_channels,)
                specs[n.weight] = ParamSpec(per_channel, Role.NORM_SCALE)
                specs[f"{n.name}.bias"] = ParamSpec(per_channel, Role.NORM_SHIFT)
                specs[f"{n.name}.running_mean"] = ParamSpec(per_channel, Role.RUNNING_MEAN)
                specs[f"{n.name}.running_var"] = ParamSpec(per_channel, Role.RUNNING_VAR)
            if n.weight_norm:
                specs[n.filter_gain] = ParamSpec((n.out_channels,), Role.GAIN)
            if n.bias:
                specs[f"{n.name}.bias"] = ParamSpec((n.out_channels,), Role.BIAS)
        return specs

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """Names of the batch-norm running means and variances."""
        return tuple(name for name, spec in self.params.items() if spec.role in STATISTICS)

    @cached_property
    def maskable(self) -> tuple[str, ...]:
        """Weight names that may be pruned, input to output: all in ``blocks``, never stem or output layer."""
        in_blocks = {f"{layer}.weight" for block in self.blocks for layer in block}
        return tuple(name for name in self.params if name in in_blocks)

    @cached_property
    def maskable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the ``maskable`` weights, in their order."""
        return {name: self.params[name].shape for name in self.maskable}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Activation shape after each node without the batch; ``"input"`` included."""
        shapes: dict[str, tuple[int, ...]] = {INPUT: self.input_shape}
        for n in self.nodes:
            source = shapes[n.inputs[0]]
            if n.op in (Op.CONV, Op.MAX_POOL):
                spatial = tuple(
                    (size + 2 * p - k) // s + 1
                    for size, k, s, p in zip(source[1:], n.kernel, n.stride, n.padding, strict=True)
                )
                shapes[n.name] = (n.out_channels if n.op is Op.CONV else source[0], *spatial)
            elif n.op is Op.LINEAR:
                shapes[n.name] = (n.out_channels,)
            elif n.op is Op.GLOBAL_AVG_POOL:
                shapes[n.name] = (source[0],)
            elif n.op is Op.FLATTEN:
                shapes[n.name] = (math.prod(source),)
            else:
                shapes[n.name] = source
        return shapes

    def parameter_count(self) -> int:
        """Trainable parameters (running statistics not counted)."""
        return sum(spec.size for spec in self.params.values() if spec.role not in STATISTICS)

    def flops(self, mask: Mask | None = None) -> int:
        """Forward FLOPs of one sample, 2 per multiply-add of conv and linear layers, from true active counts."""
        total = 0
        for n in self.nodes:
            if n.op not in (Op.CONV, Op.LINEAR):
                continue
            active = self.params[n.weight].size
            if mask is not None and n.weight in mask:
                active = int(np.count_nonzero(mask[n.weight]))
            total += 2 * active * math.prod(self.shapes[n.name][1:])
        return total

    def initial_params(self, seed: int) -> Params:
        """Kaiming-normal weights (fan-out for conv, as He et al. 2015), zero biases, identity norms."""
        rng = np.random.default_rng(seed)
        gains = {node.filter_gain: node.gain for node in self.nodes}
        params: Params = {}
        for name, spec in self.params.items():
            if spec.role is Role.WEIGHT:
                fan = spec.shape[0] * math.prod(spec.shape[2:]) if len(spec.shape) > 2 else spec.shape[1]
                values = rng.standard_normal(spec.shape, dtype=np.float32)
                params[name] = values * np.float32(math.sqrt(2.0 / fan))
            elif spec.role is Role.GAIN:
                params[name] = np.full(spec.shape, gains[name], np.float32)
            elif spec.role in (Role.NORM_SCALE, Role.RUNNING_VAR):
                params[name] = np.ones(spec.shape, np.float32)
            else:
                params[name] = np.zeros(spec.shape, np.float32)
        return params
