"""Run a graph forward in torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional

from fedcore.models.graph import BN_EPSILON, INPUT, Graph, Node, Op


@dataclass(frozen=True, slots=True)
class Mode:
    """How batch norm behaves. Training uses batch statistics; ``momentum`` None leaves the running ones alone."""

    training: bool
    momentum: float | None = None


@dataclass(slots=True)
class Capture:
    """Collects inputs and outputs of the named layers; outputs carry gradients even where no weight does."""

    layers: set[str]
    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


_NOTHING = Capture(set())
# Layers whose backward pass does not read their own output, so that a ReLU may overwrite it.
_OVERWRITABLE = frozenset({Op.CONV, Op.LINEAR, Op.BATCH_NORM, Op.ADD})


def forward(
    graph: Graph, tensors: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode, capture: Capture = _NOTHING
) -> torch.Tensor:
    """Logits (N, classes). An activation is released after its last reader, unless autograd holds it."""
    readers = Counter(source for node in graph.nodes for source in node.inputs)
    consumers = dict(readers)
    kinds = {node.name: node.op for node in graph.nodes}
    values = {INPUT: x}
    for node in graph.nodes:
        sources = [values[name] for name in node.inputs]
        for name in node.inputs:
            readers[name] -= 1
            if not readers[name]:
                del values[name]
        first = node.inputs[0]
        overwrite = consumers[first] == 1 and kinds.get(first) in _OVERWRITABLE and first not in capture.layers
        output = _layer(node, sources, tensors, mode, overwrite)
        if node.name in capture.layers:
            capture.inputs[node.name] = sources[0].detach()
            if not output.requires_grad:
                output.requires_grad_(True)
            capture.outputs[node.name] = output
        values[node.name] = output
        del sources
    return values[graph.output]


def _layer(
    node: Node, sources: list[torch.Tensor], tensors: Mapping[str, torch.Tensor], mode: Mode, overwrite: bool
) -> torch.Tensor:
    x = sources[0]
    match node.op:
        case Op.CONV:
            convolve = functional.conv1d if len(node.kernel) == 1 else functional.conv2d
            return convolve(
                x, tensors[node.weight], _bias(node, tensors), node.stride, node.padding, 1, node.groups
            )
        case Op.LINEAR:
            return functional.linear(x, tensors[node.weight], _bias(node, tensors))
        case Op.BATCH_NORM:
            return _batch_norm(node, x, tensors, mode)
        case Op.RELU:
            return functional.relu(x, inplace=overwrite)
        case Op.RELU6:
            return functional.relu6(x, inplace=overwrite)
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


def _batch_norm(node: Node, x: torch.Tensor, tensors: Mapping[str, torch.Tensor], mode: Mode) -> torch.Tensor:
    scale, shift = tensors[node.weight], tensors[f"{node.name}.bias"]
    if mode.training and mode.momentum is None:
        return functional.batch_norm(x, None, None, scale, shift, training=True, eps=BN_EPSILON)
    mean, var = tensors[f"{node.name}.running_mean"], tensors[f"{node.name}.running_var"]
    momentum = mode.momentum or 0.0
    return functional.batch_norm(x, mean, var, scale, shift, mode.training, momentum, BN_EPSILON)
