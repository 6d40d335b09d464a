"""What training costs on paper: FLOPs from true active counts, bytes of memory of a sparse runtime.

A FLOP count is 2 a multiply-add; a training step is the forward pass F and 2 F backward, half for the
input's gradient and half for the weights'. Memory is what a runtime must hold that stores masked tensors as
values and bitmaps; what a process really takes is measured elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.models.graph import INPUT, STATISTICS, Graph
from tinyfleet.fedcore.models.layers.kind import Reads
from tinyfleet.fedcore.models.layers.table import kind_of, known

VALUE = 4  # bytes of a float32
ENTRY = 8  # bytes of a position and a value in a top-K buffer


class Cost(NamedTuple):
    """FLOPs of one task, and the most memory it takes at a time, in bytes."""

    flops: float
    memory: int


def training_flops(graph: Graph, mask: Mask, samples: float) -> float:
    """Forward and backward over so many samples in all."""
    return 3.0 * graph.flops(mask) * samples


def gradient_flops(graph: Graph, mask: Mask, dense: Iterable[str], samples: float) -> float:
    """Forward and input gradients under the mask, and the whole weight gradient of the ``dense`` weights."""
    whole = sum(layer_flops(graph, name) for name in dense)
    return (2.0 * graph.flops(mask) + whole) * samples


def growth_cost(own: Cost, graph: Graph, mask: Mask, counts: Mapping[str, int], samples: int) -> Cost:
    """``own``, and after it the ``counts`` largest gradients of pruned weights over so many samples."""
    flops = own.flops + gradient_flops(graph, mask, counts, samples)
    return Cost(flops, own.memory + 2 * ENTRY * max(counts.values()))


def layer_flops(graph: Graph, weight: str) -> int:
    """Forward FLOPs of one dense layer for one sample."""
    return 2 * graph.multiply_adds(graph.by_name[weight.removesuffix(".weight")], graph.params[weight].size)


def parameter_bytes(graph: Graph, mask: Mask) -> int:
    """Values of all arrays, of masked ones the active entries and a bitmap of all."""
    total = 0
    for name, spec in graph.params.items():
        total += (active_size(graph, mask, name) * VALUE) + (math.ceil(spec.size / 8) if name in mask else 0)
    return total


def active_size(graph: Graph, mask: Mask, name: str) -> int:
    """Entries of an array that are not masked."""
    return int(np.count_nonzero(mask[name])) if name in mask else graph.params[name].size


def trained_size(graph: Graph, mask: Mask) -> int:
    """Entries that have a gradient: active ones, statistics not counted."""
    return sum(active_size(graph, mask, name) for name, spec in graph.params.items() if spec.role not in STATISTICS)


def activation_bytes(
    graph: Graph, batch: int, activation_keep: float = 1.0, value: int = VALUE, pruned_norm: bool = False
) -> int:
    """What the forward pass leaves for the backward pass of one batch.

    Weighted layers hold their input (with ``activation_keep`` < 1 that share of it at ``value`` bytes, and a
    bitmap), batch norms their input, whole unless ``pruned_norm``. A ReLU works in place: a later layer's input
    serves it, or a bitmap where that input is pruned or absent.
    """
    held: set[str] = set()
    total = 0.0
    memory = {node.name: known(kind_of(node).memory, node, "the accounting of activations") for node in graph.nodes}
    readers = {source: memory[node.name] for node in graph.nodes for source in node.inputs}
    for node in graph.nodes:
        own, source = memory[node.name], node.inputs[0]
        count = math.prod(graph.shapes[source])
        if own.reads is Reads.INPUT:
            if activation_keep < 1.0 and own.prunes(norms=pruned_norm):
                total += count * (activation_keep * value + 1 / 8)
            elif source not in held:
                total += count * VALUE
                held.add(source)
        elif own.reads in (Reads.INPUTS, Reads.OUTPUT):
            for name in {*node.inputs} if own.reads is Reads.INPUTS else (node.name,):
                total += math.prod(graph.shapes[name]) * VALUE if name not in held else 0
                held.add(name)
        elif own.reads is Reads.SIGNS:
            reader = readers.get(node.name)
            if activation_keep < 1.0 or reader is None or reader.reads is not Reads.INPUT:
                total += count / 8
    return math.ceil(total * batch)


def pruned_values(graph: Graph, *, norms: bool) -> int:
    """Values of one sample that are held pruned where caches are, those of norms too or not."""
    memory = {node: known(kind_of(node).memory, node, "the accounting of activations") for node in graph.nodes}
    return sum(math.prod(graph.shapes[node.inputs[0]]) for node, own in memory.items() if own.prunes(norms=norms))


def working_bytes(graph: Graph, batch: int) -> int:
    """The largest input and output that a layer needs at once."""
    sizes = [
        sum(math.prod(graph.shapes[source]) for source in node.inputs) + math.prod(graph.shapes[node.name])
        for node in graph.nodes
    ]
    return max(sizes, default=math.prod(graph.shapes[INPUT])) * batch * VALUE


def training_memory(
    graph: Graph,
    mask: Mask,
    batch: int,
    *,
    held: int,
    activation_keep: float = 1.0,
    value: int = VALUE,
    pruned_norm: bool = False,
    extra: int = 0,
) -> int:
    """Weights, gradients, optimiser, cached activations and ``extra`` (growth buffers, dense gradients).

    ``held``: numbers that the optimiser holds for each trained one.
    """
    state = trained_size(graph, mask) * VALUE * (1 + held)
    activations = activation_bytes(graph, batch, activation_keep, value, pruned_norm) + working_bytes(graph, batch)
    return parameter_bytes(graph, mask) + state + activations + extra
