"""Run a graph forward in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from tinyfleet.fedcore.models.graph import BN_EPSILON, INPUT, Graph, Node, Op
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning
from tinyfleet.fedcore.training.torch.layers import Collector, Convolution, Kernel, convolve
from tinyfleet.fedcore.training.torch.layout import OVERWRITABLE
from tinyfleet.fedcore.training.torch.norm import PrunedBatchNorm
from tinyfleet.fedcore.training.torch.relu import CompactReLU


@dataclass(frozen=True, slots=True)
class Mode:
    """How layers behave.

    Training uses batch statistics; ``momentum`` None leaves the running ones alone. ``active`` are the
    weights' masks, ``pruning`` how inputs are cached for the weight gradients (None: as they are);
    ``collector`` is shown inputs and output gradients of its layers.
    """

    training: bool
    momentum: float | None = None
    active: Mapping[str, torch.Tensor] = field(default_factory=dict)
    pruning: Pruning | None = None
    collector: Collector | None = None


def forward(graph: Graph, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Logits (N, classes). An activation is released after its last reader, unless autograd holds it."""
    readers = Counter(source for node in graph.nodes for source in node.inputs)
    consumers = dict(readers)
    kinds = {node.name: node.op for node in graph.nodes}
    # A layer read by one weighted layer alone gets a gradient that nobody else holds.
    sole = {node.name: False for node in graph.nodes}
    for node in graph.nodes:
        if node.op in (Op.CONV, Op.LINEAR) and readers[node.inputs[0]] == 1:
            sole[node.inputs[0]] = True
    values = {INPUT: x}
    for node in graph.nodes:
        sources = [values[name] for name in node.inputs]
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name]:
                del values[name]
        first = node.inputs[0]
        overwrite = consumers[first] == 1 and kinds.get(first) in OVERWRITABLE
        output = _layer(node, sources, tensors, mode, overwrite, sole[node.name])
        values[node.name] = output
        del sources
    return values[graph.output]


def _layer(
    node: Node,
    sources: list[torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    mode: Mode,
    overwrite: bool,
    own_gradient: bool,
) -> torch.Tensor:
    x = sources[0]
    match node.op:
        case Op.CONV | Op.LINEAR:
            return _weighted(node, x, tensors, mode)
        case Op.BATCH_NORM:
            return _batch_norm(node, x, tensors, mode, overwrite)
        case Op.RELU | Op.RELU6:
            return _relu(node, x, mode, overwrite, own_gradient)
        case Op.ADD:
            return sources[0] + sources[1]
        case Op.MAX_POOL:
            pool = functional.max_pool1d if len(node.kernel) == 1 else functional.max_pool2d
            return pool(x, node.kernel, node.stride, node.padding)
        case Op.GLOBAL_AVG_POOL:
            return x.flatten(2).mean(2)
        case Op.FLATTEN:
            return x.flatten(1)


def _bias(node: Node, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    return tensors[f"{node.name}.bias"] if node.bias else None


def _weighted(node: Node, x: torch.Tensor, tensors: Mapping[str, torch.Tensor], mode: Mode) -> torch.Tensor:
    """A convolution or linear layer."""
    weight, bias, gain = tensors[node.weight], _bias(node, tensors), tensors.get(node.filter_gain)
    collector = mode.collector if mode.collector and node.name in mode.collector.layers else None
    if gain is None and mode.pruning is None and collector is None:
        return convolve(node, x, weight, bias)
    kernel = Kernel(node, mode.active.get(node.weight), mode.pruning, collector)
    token = collector.token if collector else None
    result: torch.Tensor = Convolution.apply(x, weight, bias, gain, token, kernel)  # type: ignore[no-untyped-call]
    return result


def _relu(node: Node, x: torch.Tensor, mode: Mode, overwrite: bool, own_gradient: bool) -> torch.Tensor:
    # torch's ReLU6 in place keeps a copy of what it overwrites: a third of MobileNetV2's memory, half of its time.
    if node.op is Op.RELU and node.gain == 1.0 and mode.pruning is None:
        return functional.relu(x, inplace=overwrite)
    ceiling = None if node.op is Op.RELU else 6.0
    packed = mode.pruning is not None
    y: torch.Tensor = CompactReLU.apply(x, node.gain, ceiling, packed, overwrite, own_gradient)  # type: ignore[no-untyped-call]
    return y


def _batch_norm(
    node: Node, x: torch.Tensor, tensors: Mapping[str, torch.Tensor], mode: Mode, overwrite: bool
) -> torch.Tensor:
    scale, shift = tensors[node.weight], tensors[f"{node.name}.bias"]
    if mode.training and mode.pruning is not None and mode.pruning.norms:
        running = None
        if mode.momentum is not None:
            running = (tensors[f"{node.name}.running_mean"], tensors[f"{node.name}.running_var"])
        how = (running, mode.momentum or 0.0, overwrite, mode.pruning)
        result: torch.Tensor = PrunedBatchNorm.apply(x, scale, shift, *how)  # type: ignore[no-untyped-call]
        return result
    if mode.training and mode.momentum is None:
        return functional.batch_norm(x, None, None, scale, shift, training=True, eps=BN_EPSILON)
    mean, var = tensors[f"{node.name}.running_mean"], tensors[f"{node.name}.running_var"]
    momentum = mode.momentum or 0.0
    return functional.batch_norm(x, mean, var, scale, shift, mode.training, momentum, BN_EPSILON)
