"""A small graph for every kind of layers, and what each part of tinyfleet is expected to do with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.fedcore.training.graphs import conv, norm
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op, WeightNorm

CONSUMERS = (
    "accounting", "torch", "native", "plan torch", "plan native", "merge", "compact", "onnx", "tflite", "int8",
    "sparse", "synflow",
)  # fmt: skip
"""The columns: whoever must know a kind, or refuse it."""


@dataclass(frozen=True)
class Case:
    """A graph that holds one kind. ``otherwise``: what a consumer says of it besides "yes"."""

    graph: Graph
    op: str
    otherwise: dict[str, str] = field(default_factory=dict)

    def expected(self, consumer: str) -> str:
        return self.otherwise.get(consumer, "yes")


def graph(*nodes: Node, channels: int = 8, input_shape: tuple[int, ...] = (4, 8, 8)) -> Graph:
    """These layers, a global pool and a linear layer of 4 classes. Convolutions but the first are masked."""
    tail = (
        Node("end", Op.GLOBAL_AVG_POOL, (nodes[-1].name,)),
        Node("output", Op.LINEAR, ("end",), channels, 4, bias=True),
    )
    masked = tuple(node.name for node in nodes[1:] if node.op == Op.CONV)
    return Graph("kinds", input_shape, 4, (*nodes, *tail), (masked,) if masked else ())


def conv1(name: str, source: str, before: int, after: int, stride: int = 1) -> Node:
    return Node(name, Op.CONV, (source,), before, after, (5,), (stride,), (2,), bias=True)


def pool(name: str, source: str, padding: int = 0, kernel: int = 2) -> Node:
    return Node(name, Op.MAX_POOL, (source,), kernel=(kernel,) * 2, stride=(2, 2), padding=(padding,) * 2)


def window(name: str, source: str, padding: int = 0, kernel: int = 2) -> Node:
    return replace(pool(name, source, padding, kernel), op=Op.AVG_POOL)


STEM = conv("stem", INPUT, 4, 8, bias=True)
ACT = Node("act", Op.RELU, ("stem",))
BODY = conv("body", "act", 8, 8, bias=True)
MERGED = dict.fromkeys(("compact", "onnx", "tflite", "int8", "sparse"), "merged")
NO_FLOW = {"synflow": "no"}  # a product is not homogeneous of degree one, nor is a softmax
NOT_NATIVE = {"native": "no", "plan native": "no", "sparse": "no"}
FLAT = Graph(
    "flat", (4, 4, 4), 4,
    (STEM, ACT, BODY, Node("kind", Op.FLATTEN, ("body",)), Node("output", Op.LINEAR, ("kind",), 128, 4, bias=True)),
    (("body",),),
)  # fmt: skip

CASES: dict[str, Case] = {
    "conv": Case(graph(STEM, ACT, BODY), Op.CONV),
    "conv, 1-D": Case(
        graph(conv1("stem", INPUT, 4, 6, 2), conv1("kind", "stem", 6, 5), channels=5, input_shape=(4, 12)), Op.CONV
    ),
    "conv, depthwise": Case(graph(STEM, ACT, replace(BODY, groups=8)), Op.CONV),
    "conv, groups": Case(graph(STEM, ACT, replace(BODY, groups=2)), Op.CONV),
    "conv, padded on one side": Case(
        graph(STEM, ACT, replace(BODY, stride=(2, 2), padding=(0, 1, 1, 2))), Op.CONV
    ),
    "conv, dilated": Case(graph(STEM, ACT, replace(BODY, dilation=(2, 3), padding=(2, 3))), Op.CONV),
    "conv, dilated, with strides": Case(
        graph(STEM, ACT, replace(BODY, dilation=(2, 1), stride=(3, 2), padding=(2, 1, 0, 1), groups=8)), Op.CONV
    ),
    "conv, 1-D, causal": Case(
        graph(
            conv1("stem", INPUT, 4, 6),
            replace(conv1("kind", "stem", 6, 5), kernel=(3,), dilation=(4,), padding=(8, 0)),
            channels=5, input_shape=(4, 12),
        ), Op.CONV
    ),
    "conv, normalised": Case(graph(STEM, ACT, replace(BODY, weight_norm=WeightNorm.ACTIVE, gain=1.5)), Op.CONV),
    "linear": Case(FLAT, Op.LINEAR),
    "linear, of a vector that comes in": Case(
        Graph(
            "vector", (20,), 4,
            (
                Node("stem", Op.LINEAR, (INPUT,), 20, 12, bias=True), norm("norm", "stem", 12),
                Node("act", Op.RELU, ("norm",)), Node("body", Op.LINEAR, ("act",), 12, 9, bias=True),
                Node("again", Op.RELU, ("body",)), Node("output", Op.LINEAR, ("again",), 9, 4, bias=True),
            ), (("body",),),
        ), Op.LINEAR,
    ),
    "batch_norm": Case(
        graph(STEM, ACT, BODY, norm("kind", "body", 8)), Op.BATCH_NORM,
        MERGED,
    ),
    "relu": Case(graph(STEM, ACT, BODY, Node("kind", Op.RELU, ("body",))), Op.RELU),
    "relu, gain": Case(graph(STEM, replace(ACT, gain=1.7), BODY), Op.RELU),
    "relu6": Case(graph(STEM, Node("act", Op.RELU6, ("stem",)), BODY), Op.RELU6),
    "add": Case(graph(STEM, ACT, BODY, Node("kind", Op.ADD, ("body", "act"))), Op.ADD),
    "max_pool": Case(graph(STEM, ACT, BODY, pool("kind", "body")), Op.MAX_POOL),
    "max_pool, padded": Case(
        graph(STEM, ACT, pool("kind", "act", 1, 3), replace(BODY, inputs=("kind",))), Op.MAX_POOL
    ),
    "max_pool, padded, of negative values": Case(
        graph(STEM, ACT, BODY, pool("kind", "body", 1, 3)), Op.MAX_POOL
    ),
    "max_pool, 1-D": Case(
        graph(
            conv1("stem", INPUT, 4, 6),
            Node("kind", Op.MAX_POOL, ("stem",), kernel=(2,), stride=(2,), padding=(0,)),
            conv1("body", "kind", 6, 5), channels=5, input_shape=(4, 12),
        ), Op.MAX_POOL
    ),
    "leaky_relu": Case(graph(STEM, Node("act", Op.LEAKY_RELU, ("stem",)), BODY), Op.LEAKY_RELU),
    "hard_swish": Case(graph(STEM, Node("act", Op.HARD_SWISH, ("stem",)), BODY), Op.HARD_SWISH),
    "hard_sigmoid": Case(graph(STEM, Node("act", Op.HARD_SIGMOID, ("stem",)), BODY), Op.HARD_SIGMOID),
    "sigmoid": Case(graph(STEM, Node("act", Op.SIGMOID, ("stem",)), BODY), Op.SIGMOID),
    "tanh": Case(graph(STEM, Node("act", Op.TANH, ("stem",)), BODY), Op.TANH),
    "softmax": Case(
        graph(
            STEM, ACT, BODY, Node("kind", Op.SOFTMAX, ("body",)), conv("last", "kind", 8, 8, bias=True)
        ), Op.SOFTMAX, NO_FLOW | NOT_NATIVE,
    ),
    "mul": Case(
        graph(
            STEM, Node("act", Op.HARD_SWISH, ("stem",)), BODY, Node("kind", Op.MUL, ("body", "act")),
            conv("last", "kind", 8, 8, bias=True),
        ), Op.MUL, NO_FLOW,
    ),
    "mul, squeeze and excitation": Case(
        graph(
            STEM, ACT, BODY, Node("squeeze", Op.GLOBAL_AVG_POOL, ("body",)),
            Node("reduce", Op.LINEAR, ("squeeze",), 8, 4, bias=True), Node("reduced", Op.RELU, ("reduce",)),
            Node("expand", Op.LINEAR, ("reduced",), 4, 8, bias=True), Node("gate", Op.HARD_SIGMOID, ("expand",)),
            Node("kind", Op.MUL, ("body", "gate")), conv("last", "kind", 8, 8, bias=True),
        ), Op.MUL, NO_FLOW,
    ),
    "slice": Case(
        graph(
            STEM, ACT, BODY, Node("kind", Op.SLICE, ("body",), 8, 5, start=2), conv("last", "kind", 5, 8, bias=True)
        ), Op.SLICE
    ),
    "shuffle": Case(
        graph(
            STEM, ACT, BODY, Node("kind", Op.SHUFFLE, ("body",), groups=4), conv("last", "kind", 8, 8, bias=True)
        ), Op.SHUFFLE
    ),
    "shuffle, of halves": Case(
        graph(
            STEM, ACT, Node("left", Op.SLICE, ("act",), 8, 4), Node("right", Op.SLICE, ("act",), 8, 4, start=4),
            replace(BODY, inputs=("right",), in_channels=4, out_channels=4),
            Node("joined", Op.CONCAT, ("left", "body")), Node("kind", Op.SHUFFLE, ("joined",), groups=2),
            conv("last", "kind", 8, 8, bias=True),
        ), Op.SHUFFLE
    ),
    "crop": Case(
        graph(
            STEM, ACT, Node("kind", Op.CROP, ("act",), padding=(1, 0, 2, 3)), replace(BODY, inputs=("kind",))
        ), Op.CROP
    ),
    "crop, 1-D, to the last": Case(
        graph(
            conv1("stem", INPUT, 4, 6), conv1("body", "stem", 6, 5),
            Node("kind", Op.CROP, ("body",), padding=(11, 0)), channels=5, input_shape=(4, 12),
        ), Op.CROP
    ),
    "upsample": Case(
        graph(STEM, ACT, Node("kind", Op.UPSAMPLE, ("act",), kernel=(2, 3)), replace(BODY, inputs=("kind",))),
        Op.UPSAMPLE,
    ),
    "concat": Case(
        graph(STEM, ACT, BODY, Node("kind", Op.CONCAT, ("body", "act")), conv("last", "kind", 16, 8, bias=True)),
        Op.CONCAT,
    ),
    "concat, of vectors": Case(
        Graph(
            "vectors", (4, 8, 8), 4,
            (
                STEM, ACT, BODY, Node("pool", Op.GLOBAL_AVG_POOL, ("body",)),
                Node("left", Op.LINEAR, ("pool",), 8, 5, bias=True), Node("kind", Op.CONCAT, ("left", "pool")),
                Node("output", Op.LINEAR, ("kind",), 13, 4, bias=True),
            ), (("body",),),
        ), Op.CONCAT
    ),
    "avg_pool": Case(graph(STEM, ACT, window("kind", "act"), replace(BODY, inputs=("kind",))), Op.AVG_POOL),
    "avg_pool, padded": Case(
        graph(STEM, ACT, BODY, window("kind", "body", 1, 3)), Op.AVG_POOL
    ),
    "max_pool, padded behind": Case(
        graph(STEM, ACT, BODY, replace(pool("kind", "body", 0, 3), padding=(0, 0, 1, 1))), Op.MAX_POOL
    ),
    "avg_pool, padded behind": Case(
        graph(STEM, ACT, BODY, replace(window("kind", "body", 0, 3), padding=(0, 0, 1, 1))), Op.AVG_POOL
    ),
    "avg_pool, 1-D": Case(
        graph(
            conv1("stem", INPUT, 4, 6),
            Node("kind", Op.AVG_POOL, ("stem",), kernel=(3,), stride=(1,), padding=(1,)),
            conv1("body", "kind", 6, 5), channels=5, input_shape=(4, 12),
        ), Op.AVG_POOL
    ),
    "global_avg_pool": Case(graph(STEM, ACT, BODY), Op.GLOBAL_AVG_POOL),
    "flatten": Case(FLAT, Op.FLATTEN),
    "dropout": Case(
        graph(STEM, ACT, Node("kind", Op.DROPOUT, ("act",), rate=0.3), replace(BODY, inputs=("kind",))), Op.DROPOUT,
        MERGED,
    ),
    "dropout, of vectors": Case(
        Graph(
            "vectors", (4, 4, 4), 4,
            (
                STEM, ACT, BODY, Node("flat", Op.FLATTEN, ("body",)),
                Node("kind", Op.DROPOUT, ("flat",), rate=0.5),
                Node("output", Op.LINEAR, ("kind",), 128, 4, bias=True),
            ), (("body",),),
        ), Op.DROPOUT, MERGED,
    ),
}  # fmt: skip


def table() -> str:
    """The matrix as it stands in docs/models.md."""
    lines = ["| kind | " + " | ".join(CONSUMERS) + " |", "|---" * (1 + len(CONSUMERS)) + "|"]
    lines += [
        f"| {name} | " + " | ".join(case.expected(consumer) for consumer in CONSUMERS) + " |"
        for name, case in CASES.items()
    ]
    return "\n".join(lines)
