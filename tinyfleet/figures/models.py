"""The models as they are built: nothing here is measured."""

from __future__ import annotations

import math

import numpy as np

from tinyfleet.bench.wire import graph_of
from tinyfleet.fedcore.models.graph import STATISTICS, Graph
from tinyfleet.fedcore.models.registry import names
from tinyfleet.fedcore.sparsity.allocation import ALLOCATIONS
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults, markdown_table


def figures(results: CommittedResults) -> dict[str, Figure]:
    """``results`` is not read."""
    return {
        "models": models,
        "weights": weights,
        "weights-a-filter": weights_a_filter,
        "layers-apart": layers_apart,
        "depthwise-share": depthwise_share,
    }


def models() -> str:
    """Every model at the input it is meant for, with 10 classes."""
    rows = []
    for name in names():
        graph = graph_of(name)
        rows.append(
            (
                name,
                "x".join(str(size) for size in graph.input_shape),
                f"{sum(spec.size for spec in graph.params.values() if spec.role not in STATISTICS):,}",
                f"{_prunable(graph):,}",
                f"{graph.flops() / 1e6:.1f}",
                len(graph.blocks),
            )
        )
    return markdown_table(("model", "input", "parameters", "prunable weights", "MFLOPs", "blocks"), rows)


def weights(name: str) -> str:
    """Prunable weights of a model."""
    return f"{_prunable(graph_of(name)):,}"


def weights_a_filter(which: str, name: str, density: str) -> str:
    """Active weights a filter under ERK, the mean of the layer with the least or the most."""
    graph = graph_of(name)
    shapes = graph.maskable_shapes
    counts = ALLOCATIONS["erk"](shapes, float(density))
    found = [counts[layer] / shapes[layer][0] for layer in shapes]
    return f"{ {'least': min, 'most': max}[which](found):.1f}"


def layers_apart(name: str) -> str:
    """The largest prunable layer's weights over the smallest's."""
    sizes = [math.prod(shape) for shape in graph_of(name).maskable_shapes.values()]
    return f"{max(sizes) / min(sizes):.0f}"


def depthwise_share(name: str) -> str:
    """Weights of depthwise convolutions, in % of all weights of convolutions and linear layers."""
    graph = graph_of(name)
    nodes = graph.weighted
    sizes = np.array([graph.params[node.weight].size for node in nodes])
    deep = np.array([node.groups > 1 for node in nodes])
    return f"{100 * sizes[deep].sum() / sizes.sum():.0f}"


def _prunable(graph: Graph) -> int:
    return sum(math.prod(shape) for shape in graph.maskable_shapes.values())
