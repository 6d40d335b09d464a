"""Small graphs and batches that the engine tests share."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import random_mask


def conv(name, source, c_in, c_out, stride=1, groups=1, kernel=3, bias=False):
    return Node(
        name, Op.CONV, (source,), c_in, c_out, (kernel, kernel), (stride, stride), (kernel // 2, kernel // 2),
        groups, bias,
    )  # fmt: skip


def norm(name, source, channels):
    return Node(name, Op.BATCH_NORM, (source,), channels, channels)


def residual_graph(norms: bool = True) -> Graph:
    """Every op of 2-D models: strides, a depthwise convolution, a residual, pools and two linear layers."""
    nodes = [conv("stem", INPUT, 2, 8, bias=not norms)]
    last = "stem"
    if norms:
        nodes.append(norm("stem_norm", last, 8))
        last = "stem_norm"
    nodes += [
        Node("stem_relu", Op.RELU, (last,)),
        conv("wide", "stem_relu", 8, 16, stride=2, bias=not norms),
        Node("wide_relu", Op.RELU6, ("wide",)),
        conv("depthwise", "wide_relu", 16, 16, groups=16, bias=not norms),
        *([norm("depthwise_norm", "depthwise", 16)] if norms else []),
        conv("shortcut", "stem_relu", 8, 16, stride=2, kernel=1),
        Node("sum", Op.ADD, ("depthwise_norm" if norms else "depthwise", "shortcut")),
        Node("sum_relu", Op.RELU, ("sum",)),
        Node("pool", Op.MAX_POOL, ("sum_relu",), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
        Node("flat", Op.FLATTEN, ("pool",)),
        Node("hidden", Op.LINEAR, ("flat",), 16 * 4, 24, bias=True),
        Node("hidden_relu", Op.RELU, ("hidden",)),
        Node("output", Op.LINEAR, ("hidden_relu",), 24, 5, bias=True),
    ]
    return Graph("residual", (2, 8, 8), 5, tuple(nodes), (("hidden",), ("depthwise", "shortcut"), ("wide",)))


def one_dimensional_graph() -> Graph:
    nodes = (
        Node("stem", Op.CONV, (INPUT,), 3, 6, (5,), (2,), (2,)),
        norm("stem_norm", "stem", 6),
        Node("relu", Op.RELU, ("stem_norm",)),
        Node("wide", Op.CONV, ("relu",), 6, 12, (3,), (1,), (1,)),
        norm("wide_norm", "wide", 12),
        Node("wide_relu", Op.RELU, ("wide_norm",)),
        Node("pool", Op.GLOBAL_AVG_POOL, ("wide_relu",)),
        Node("output", Op.LINEAR, ("pool",), 12, 4, bias=True),
    )
    return Graph("sensor", (3, 20), 4, nodes, (("wide",),))


def batch(graph: Graph, size: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, *graph.input_shape)).astype(np.float32)
    return x, rng.integers(0, graph.classes, size)


def masked(graph: Graph, density: float, seed: int = 0):
    shapes = {name: graph.params[name].shape for name in graph.maskable}
    return random_mask(shapes, uniform_counts(shapes, density), np.random.default_rng(seed))
