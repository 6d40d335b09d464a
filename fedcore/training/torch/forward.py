"""Run a graph forward in torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from tinyfleet.fedcore.models.graph import BN_EPSILON, INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.layers.crop import cuts
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE
from tinyfleet.fedcore.models.layers.relu6 import CEILING
from tinyfleet.fedcore.models.layers.table import kind_of, known
from tinyfleet.fedcore.models.layers.window import lopsided
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning
from tinyfleet.fedcore.training.torch.dropout import CountedDropout, seed_of
from tinyfleet.fedcore.training.torch.layers import (
    Collector,
    Convolution,
    Kernel,
    convolve,
    inner_padding,
    padded,
)
from tinyfleet.fedcore.training.torch.norm import PrunedBatchNorm
from tinyfleet.fedcore.training.torch.relu import CompactReLU


@dataclass(frozen=True, slots=True)
class Mode:
    """How layers behave.

    Training uses batch statistics; ``momentum`` None leaves the running ones alone. ``active`` are the
    weights' masks, ``pruning`` how inputs are cached for the weight gradients (None: as they are);
    ``collector`` is shown inputs and output gradients of its layers. ``passed`` is the pass's number, which dropout
    draws by.
    """

    training: bool
    momentum: float | None = None
    active: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pruning: Pruning | None = None
    collector: Collector | None = None
    passed: int = 0


def forward(graph: Graph, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Logits (N, classes). An activation is released after its last reader, unless autograd holds it."""
    readers = Counter(source for node in graph.nodes for source in node.inputs)
    consumers = dict(readers)
    overwritable = {node.name: _may_overwrite(node) for node in graph.nodes}
    # A layer read by one weighted layer alone gets a gradient that nobody else holds.
    sole = {node.inputs[0] for node in graph.weighted if readers[node.inputs[0]] == 1}
    values = {INPUT: x}
    for number, node in enumerate(graph.nodes):
        compute = known(LAYERS.get(node.op), node, "engine 'torch'")
        sources = [values[name] for name in node.inputs]
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name]:
                del values[name]
        first = node.inputs[0]
        overwrite = consumers[first] == 1 and overwritable.get(first, False)
        values[node.name] = compute(ForwardCall(node, sources, tensors, mode, overwrite, node.name in sole, number))
        del sources
    return values[graph.output]


def _may_overwrite(node: Node) -> bool:
    memory = kind_of(node).memory
    return memory is not None and memory.overwritable


@dataclass(frozen=True, slots=True)
class ForwardCall:
    """One layer in one pass. ``overwrite``: its first input may be; ``own_gradient``: its output's gradient too."""

    node: Node
    sources: list[torch.Tensor]
    tensors: Mapping[str, torch.Tensor]
    mode: Mode
    overwrite: bool
    own_gradient: bool
    number: int  # of the layer in its graph

    @property
    def x(self) -> torch.Tensor:
        return self.sources[0]

    def tensor(self, what: str) -> torch.Tensor:
        return self.tensors[f"{self.node.name}.{what}"]


def _weighted(call: ForwardCall) -> torch.Tensor:
    """A convolution or linear layer."""
    node, mode, x = call.node, call.mode, padded(call.node, call.x)
    weight, bias = call.tensor("weight"), call.tensor("bias") if node.bias else None
    gain = call.tensors.get(node.filter_gain)
    collector = mode.collector if mode.collector and node.name in mode.collector.layers else None
    if gain is None and mode.pruning is None and collector is None:
        return convolve(node, x, weight, bias)
    kernel = Kernel(node, mode.active.get(node.weight), mode.pruning, collector)
    token = collector.token if collector else None
    result: torch.Tensor = Convolution.apply(x, weight, bias, gain, token, kernel)  # type: ignore[no-untyped-call]
    return result


def _relu(call: ForwardCall) -> torch.Tensor:
    if call.node.gain == 1.0 and call.mode.pruning is None:
        return functional.relu(call.x, inplace=call.overwrite)
    return _compact_relu(call, None)


def _relu6(call: ForwardCall) -> torch.Tensor:
    # torch's ReLU6 in place keeps a copy of what it overwrites: a third of MobileNetV2's memory, half of its time.
    return _compact_relu(call, CEILING)


def _compact_relu(call: ForwardCall, ceiling: float | None) -> torch.Tensor:
    packed = call.mode.pruning is not None
    how = (call.node.gain, ceiling, packed, call.overwrite, call.own_gradient)
    y: torch.Tensor = CompactReLU.apply(call.x, *how)  # type: ignore[no-untyped-call]
    return y


def _batch_norm(call: ForwardCall) -> torch.Tensor:
    mode, x = call.mode, call.x
    scale, shift = call.tensor("weight"), call.tensor("bias")
    if mode.training and mode.pruning is not None and mode.pruning.norms:
        running = None
        if mode.momentum is not None:
            running = (call.tensor("running_mean"), call.tensor("running_var"))
        how = (running, mode.momentum or 0.0, call.overwrite, mode.pruning)
        result: torch.Tensor = PrunedBatchNorm.apply(x, scale, shift, *how)  # type: ignore[no-untyped-call]
        return result
    if mode.training and mode.momentum is None:
        return functional.batch_norm(x, None, None, scale, shift, training=True, eps=BN_EPSILON)
    mean, var = call.tensor("running_mean"), call.tensor("running_var")
    momentum = mode.momentum or 0.0
    return functional.batch_norm(x, mean, var, scale, shift, mode.training, momentum, BN_EPSILON)


def _max_pool(call: ForwardCall) -> torch.Tensor:
    node = call.node
    pool = functional.max_pool1d if len(node.kernel) == 1 else functional.max_pool2d
    return pool(padded(node, call.x, -math.inf), node.kernel, node.stride, inner_padding(node))


def _avg_pool(call: ForwardCall) -> torch.Tensor:
    node = call.node
    pool = functional.avg_pool1d if len(node.kernel) == 1 else functional.avg_pool2d
    if not lopsided(node):
        return pool(call.x, node.kernel, node.stride, node.padding, count_include_pad=False)
    counted = pool(padded(node, torch.ones_like(call.x[:1, :1])), node.kernel, node.stride)
    return pool(padded(node, call.x), node.kernel, node.stride) / counted


def _dropout(call: ForwardCall) -> torch.Tensor:
    if not call.mode.training or not call.node.rate:
        return call.x
    seed = seed_of(call.mode.passed, call.number)
    dropped: torch.Tensor = CountedDropout.apply(call.x, call.node.rate, seed)  # type: ignore[no-untyped-call]
    return dropped


def _mul(call: ForwardCall) -> torch.Tensor:
    whole, factor = call.sources
    return whole * factor.reshape(*factor.shape, *[1] * (whole.dim() - factor.dim()))


def _shuffle(call: ForwardCall) -> torch.Tensor:
    groups, shape = call.node.groups, call.x.shape
    return call.x.reshape(shape[0], groups, -1, *shape[2:]).transpose(1, 2).reshape(shape)


def _crop(call: ForwardCall) -> torch.Tensor:
    x = call.x
    for dimension, (before, behind) in enumerate(zip(*cuts(call.node), strict=True), start=2):
        x = x.narrow(dimension, before, x.shape[dimension] - before - behind)
    return x


def _upsample(call: ForwardCall) -> torch.Tensor:
    x = call.x
    for dimension, times in enumerate(call.node.kernel, start=2):
        x = x.repeat_interleave(times, dimension)
    return x


LAYERS: dict[str, Callable[[ForwardCall], torch.Tensor]] = {
    Op.CONV: _weighted,
    Op.LINEAR: _weighted,
    Op.BATCH_NORM: _batch_norm,
    Op.RELU: _relu,
    Op.RELU6: _relu6,
    Op.LEAKY_RELU: lambda call: functional.leaky_relu(call.x, SLOPE),
    Op.HARD_SWISH: lambda call: functional.hardswish(call.x),
    Op.HARD_SIGMOID: lambda call: functional.hardsigmoid(call.x),
    Op.SIGMOID: lambda call: torch.sigmoid(call.x),
    Op.TANH: lambda call: torch.tanh(call.x),
    Op.SOFTMAX: lambda call: torch.softmax(call.x, 1),
    Op.ADD: lambda call: call.sources[0] + call.sources[1],
    Op.MUL: _mul,
    Op.CONCAT: lambda call: torch.cat(call.sources, 1),
    Op.SLICE: lambda call: call.x[:, call.node.start : call.node.start + call.node.out_channels],
    Op.SHUFFLE: _shuffle,
    Op.CROP: _crop,
    Op.UPSAMPLE: _upsample,
    Op.MAX_POOL: _max_pool,
    Op.AVG_POOL: _avg_pool,
    Op.GLOBAL_AVG_POOL: lambda call: call.x.flatten(2).mean(2),
    Op.FLATTEN: lambda call: call.x.flatten(1),
    Op.DROPOUT: _dropout,
}
"""How the engine computes each kind."""
