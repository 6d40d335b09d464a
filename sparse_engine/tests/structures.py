"""Small models, each with layers in company that the engine fuses, shares or orders in a way of its own."""

from __future__ import annotations

import numpy as np

from sparse_engine import Layer, Model, Op


def conv(name: str, source: str, ins: int, outs: int, size: int = 3, stride: int = 1, **more: object) -> Layer:
    return Layer(name, Op.CONV, (source,), ins, outs, (size,) * 2, (stride,) * 2, (size // 2,) * 2, **more)  # type: ignore[arg-type]


def norm(name: str, source: str, size: int) -> Layer:
    return Layer(name, Op.BATCH_NORM, (source,), size, size)


def act(name: str, source: str, op: Op = Op.RELU, gain: float = 1.0) -> Layer:
    return Layer(name, op, (source,), gain=gain)


def add(name: str, a: str, b: str) -> Layer:
    return Layer(name, Op.ADD, (a, b))


def mul(name: str, a: str, b: str) -> Layer:
    return Layer(name, Op.MUL, (a, b))


def part(name: str, source: str, ins: int, start: int, outs: int) -> Layer:
    return Layer(name, Op.SLICE, (source,), ins, outs, start=start)


def around(
    name: str,
    source: str,
    ins: int,
    outs: int,
    dilation: tuple[int, int],
    padding: tuple[int, ...],
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    size: int = 3,
) -> Layer:
    """A convolution with dilation, or more padding on one side than on the other."""
    return Layer(name, Op.CONV, (source,), ins, outs, (size,) * 2, stride, padding, groups, dilation=dilation)


def flatten(source: str) -> Layer:
    return Layer("flat", Op.FLATTEN, (source,))


def linear(name: str, source: str, ins: int, outs: int) -> Layer:
    return Layer(name, Op.LINEAR, (source,), ins, outs)


def whole(*layers: Layer, flat: bool = False) -> Model:
    """With a head behind the last layer."""
    shapes = Model((2, 4, 4), layers).shapes()
    if flat:
        values = int(np.prod(shapes[layers[-1].name]))
        return Model((2, 4, 4), (*layers, Layer("head", Op.LINEAR, (layers[-1].name,), values, 3)))
    pool = Layer("mean", Op.GLOBAL_AVG_POOL, (layers[-1].name,))
    size = shapes[layers[-1].name][0]
    return Model((2, 4, 4), (*layers, pool, Layer("head", Op.LINEAR, ("mean",), size, 3, bias=True)))


STEM = (conv("stem", "input", 2, 4), norm("stem_norm", "stem", 4), act("x", "stem_norm"))
BRANCH = (
    conv("a", "x", 4, 4),
    norm("a_norm", "a", 4),
    act("a_act", "a_norm"),
    conv("b", "a_act", 4, 4),
    norm("y", "b", 4),
)
DOWN = (
    conv("a", "x", 4, 6, stride=2),
    norm("a_norm", "a", 6),
    act("a_act", "a_norm"),
    conv("b", "a_act", 6, 6),
    norm("y", "b", 6),
)
SHORTCUT = (conv("short", "x", 4, 6, 1, 2), norm("z", "short", 6))
MODELS = {
    "residual, identity": whole(
        *STEM, *BRANCH, add("sum", "y", "x"), act("out", "sum"), conv("after", "out", 4, 3)
    ),
    "residual, identity first": whole(*STEM, *BRANCH, add("sum", "x", "y"), act("out", "sum")),
    "residual, shortcut after": whole(*STEM, *DOWN, *SHORTCUT, add("sum", "y", "z"), act("out", "sum")),
    "residual, shortcut before": whole(*STEM, *SHORTCUT, *DOWN, add("sum", "z", "y"), act("out", "sum")),
    "two residual blocks": whole(
        *STEM,
        *BRANCH,
        add("sum", "y", "x"),
        act("out", "sum"),
        conv("c", "out", 4, 4),
        norm("c_norm", "c", 4),
        act("c_act", "c_norm", Op.RELU6),
        conv("d", "c_act", 4, 4),
        add("sum2", "d", "out"),
        act("out2", "sum2", gain=1.5),
        conv("after", "out2", 4, 3),
    ),
    "sum whose activation its output does not tell": whole(
        *STEM, *BRANCH, add("sum", "y", "x"), act("out", "sum", Op.HARD_SWISH), conv("after", "out", 4, 3)
    ),
    "sum that is read with and without its activation": whole(
        *STEM, *BRANCH, add("sum", "y", "x"), act("out", "sum"), conv("c", "out", 4, 4), add("again", "c", "sum")
    ),
    "same value added to itself": whole(*STEM, add("sum", "x", "x"), conv("after", "sum", 4, 3)),
    "same sum added to itself": whole(
        *STEM, *BRANCH, add("sum", "y", "x"), add("twice", "sum", "sum"), conv("c", "twice", 4, 3)
    ),
    "pre-activation": whole(
        conv("stem", "input", 2, 4),
        norm("n1", "stem", 4),
        act("r1", "n1"),
        conv("c1", "r1", 4, 4),
        add("s1", "c1", "stem"),
        norm("n2", "s1", 4),
        act("r2", "n2"),
        conv("c2", "r2", 4, 4),
        add("s2", "c2", "s1"),
        norm("n3", "s2", 4),
        act("r3", "n3", Op.LEAKY_RELU),
    ),
    "norm after norm": whole(
        conv("stem", "input", 2, 4), norm("n1", "stem", 4), norm("n2", "n1", 4), act("r", "n2")
    ),
    "norm after activation": whole(
        conv("stem", "input", 2, 4), act("r", "stem", Op.HARD_SWISH), norm("n", "r", 4), conv("c", "n", 4, 3)
    ),
    "two norms of one value": whole(
        conv("stem", "input", 2, 4),
        norm("n1", "stem", 4),
        norm("n2", "stem", 4),
        act("r", "n2"),
        add("sum", "n1", "r"),
    ),
    "norm of the input": whole(norm("n", "input", 2), conv("c", "n", 2, 4), act("r", "c")),
    "activation after activation": whole(
        *STEM,
        conv("c", "x", 4, 4),
        act("r", "c", Op.LEAKY_RELU, 2.0),
        act("h", "r", Op.HARD_SWISH),
        conv("d", "h", 4, 3),
    ),
    "value that three read": whole(
        *STEM,
        conv("a", "x", 4, 4),
        conv("b", "x", 4, 4, 1),
        conv("c", "x", 4, 4, 5),
        add("ab", "a", "b"),
        add("abc", "ab", "c"),
    ),
    "stored value that three read in three ways": whole(
        conv("v", "input", 2, 4),
        act("r", "v"),
        act("h", "v", Op.HARD_SWISH, 0.5),
        conv("a", "v", 4, 4),
        add("rh", "r", "h"),
        add("all", "rh", "a"),
    ),
    "joined with itself": whole(*STEM, Layer("join", Op.CONCAT, ("x", "x", "x")), conv("c", "join", 12, 3)),
    "joined input": whole(
        conv("c", "input", 2, 3), Layer("join", Op.CONCAT, ("input", "c")), conv("d", "join", 5, 4), act("r", "d")
    ),
    "dense block": whole(
        *STEM,
        conv("a", "x", 4, 3),
        Layer("j1", Op.CONCAT, ("x", "a")),
        norm("n", "j1", 7),
        act("r", "n"),
        conv("b", "r", 7, 3),
        Layer("j2", Op.CONCAT, ("j1", "b")),
        conv("c", "j2", 10, 4),
    ),
    "linear on an image": whole(*STEM, flat=True),
    "linear on a flattened sum": whole(*STEM, *BRANCH, add("sum", "y", "x"), flatten("sum"), flat=True),
    "flattened twice over": whole(
        *STEM,
        flatten("x"),
        linear("l1", "flat", 64, 7),
        linear("l2", "flat", 64, 7),
        add("sum", "l1", "l2"),
        act("r", "sum"),
    ),
    "norm that is read with and without its activation": whole(
        conv("stem", "input", 2, 4),
        norm("n", "stem", 4),
        act("r", "n"),
        conv("p", "n", 4, 4),
        conv("q", "r", 4, 4),
        add("sum", "p", "q"),
    ),
    "norm that is read in three ways": whole(
        conv("stem", "input", 2, 4),
        norm("n", "stem", 4),
        act("r", "n"),
        act("h", "n", Op.HARD_SWISH),
        conv("p", "r", 4, 4),
        conv("q", "h", 4, 4, 1),
        add("pq", "p", "q"),
        add("sum", "n", "pq"),
        conv("s", "sum", 4, 3),
    ),
    "flattened image joined with itself": whole(
        conv("c", "input", 2, 4), flatten("c"), Layer("join", Op.CONCAT, ("flat", "flat")), flat=True
    ),
    "flattened image added to itself": whole(
        conv("c", "input", 2, 4), flatten("c"), add("s", "flat", "flat"), flat=True
    ),
    "flattened and read twice over": whole(
        *STEM, flatten("x"), act("h", "flat", Op.HARD_SWISH), add("s", "flat", "h"), flat=True
    ),
    "flattened, activated twice": whole(
        *STEM, flatten("x"), act("r", "flat", Op.LEAKY_RELU), act("h", "r", Op.HARD_SWISH), flat=True
    ),
    "flattened and pooled": whole(*STEM, flatten("x")),
    "activation after flatten": whole(conv("c", "input", 2, 4), flatten("c"), act("r", "flat"), flat=True),
    "flattened input": whole(flatten("input"), linear("l", "flat", 32, 6), act("r", "l"), flat=True),
    "value that is read flattened and not": whole(
        *STEM,
        flatten("x"),
        linear("l", "flat", 64, 6),
        Layer("m", Op.GLOBAL_AVG_POOL, ("x",)),
        linear("k", "m", 4, 6),
        add("sum", "l", "k"),
        act("r", "sum"),
        flat=True,
    ),
    "pools of one value": whole(
        *STEM,
        Layer("max", Op.MAX_POOL, ("x",), kernel=(3, 3), stride=(1, 1), padding=(1, 1)),
        Layer("avg", Op.AVG_POOL, ("x",), kernel=(3, 3), stride=(1, 1), padding=(1, 1)),
        add("sum", "max", "avg"),
        conv("c", "sum", 4, 3),
    ),
    "inverted residual": whole(
        *STEM,
        conv("up", "x", 4, 8, 1),
        norm("up_norm", "up", 8),
        act("up_act", "up_norm", Op.RELU6),
        conv("deep", "up_act", 8, 8, groups=8),
        norm("deep_norm", "deep", 8),
        act("deep_act", "deep_norm", Op.RELU6),
        conv("down", "deep_act", 8, 4, 1),
        norm("y", "down", 4),
        add("sum", "y", "x"),
        conv("c", "sum", 4, 3),
    ),
    "normalised convolutions": whole(
        conv("a", "input", 2, 4, weight_norm="active", bias=True),
        act("r", "a", gain=1.71396),
        conv("b", "r", 4, 4, weight_norm="all"),
        add("sum", "b", "r"),
        act("out", "sum", gain=1.71396),
    ),
    "squeeze and excitation": whole(
        *STEM,
        conv("a", "x", 4, 6),
        norm("n", "a", 6),
        act("h", "n", Op.HARD_SWISH),
        Layer("squeeze", Op.GLOBAL_AVG_POOL, ("h",)),
        linear("reduce", "squeeze", 6, 3),
        act("reduced", "reduce"),
        linear("expand", "reduced", 3, 6),
        act("gate", "expand", Op.HARD_SIGMOID),
        mul("gated", "h", "gate"),
        conv("after", "gated", 6, 3),
    ),
    "product of a value and its own gate": whole(
        *STEM, conv("a", "x", 4, 4), act("s", "a", Op.SIGMOID), mul("swish", "a", "s"), conv("after", "swish", 4, 3)
    ),
    "product with itself": whole(*STEM, mul("square", "x", "x"), conv("after", "square", 4, 3)),
    "gated twice": whole(
        *STEM,
        conv("a", "x", 4, 4),
        act("t", "a", Op.TANH),
        act("s", "a", Op.SIGMOID, 2.0),
        mul("ts", "t", "s"),
        add("sum", "ts", "x"),
        mul("again", "sum", "t"),
    ),
    "product of the input": whole(
        Layer("squeeze", Op.GLOBAL_AVG_POOL, ("input",)),
        linear("l", "squeeze", 2, 2),
        mul("scaled", "input", "l"),
        conv("c", "scaled", 2, 4),
    ),
    "product of flattened images": whole(
        conv("c", "input", 2, 4), flatten("c"), act("s", "flat", Op.SIGMOID), mul("m", "flat", "s"), flat=True
    ),
    "halves, shuffled": whole(
        *STEM,
        part("left", "x", 4, 0, 2),
        part("right", "x", 4, 2, 2),
        conv("b", "right", 2, 2),
        norm("bn", "b", 2),
        act("br", "bn"),
        Layer("join", Op.CONCAT, ("left", "br")),
        Layer("dealt", Op.SHUFFLE, ("join",), groups=2),
        part("again", "dealt", 4, 1, 3),
        conv("after", "again", 3, 3),
    ),
    "part of the input": whole(part("one", "input", 2, 1, 1), conv("c", "one", 1, 4), act("r", "c")),
    "shuffled norm, read twice": whole(
        conv("c", "input", 2, 6),
        norm("n", "c", 6),
        act("r", "n", Op.RELU6),
        Layer("dealt", Op.SHUFFLE, ("r",), groups=3),
        conv("d", "dealt", 6, 6),
        add("sum", "dealt", "d"),
        add("both", "sum", "r"),
    ),
    "part of an image": whole(
        *STEM,
        Layer("cut", Op.CROP, ("x",), padding=(1, 0, 0, 2)),
        conv("a", "cut", 4, 4),
        Layer("again", Op.CROP, ("cut",), padding=(0, 1, 1, 0)),
        Layer("other", Op.CROP, ("a",), padding=(0, 1, 1, 0)),
        add("sum", "again", "other"),
    ),
    "upsampled": whole(
        *STEM,
        conv("down", "x", 4, 4, stride=2),
        norm("n", "down", 4),
        act("r", "n"),
        Layer("up", Op.UPSAMPLE, ("r",), kernel=(2, 2)),
        add("sum", "up", "x"),
        conv("after", "sum", 4, 3),
    ),
    "upsampled unevenly, and read twice": whole(
        *STEM,
        Layer("up", Op.UPSAMPLE, ("x",), kernel=(1, 3)),
        act("h", "up", Op.HARD_SWISH),
        conv("a", "up", 4, 4),
        norm("n", "up", 4),
        add("ah", "a", "h"),
        add("sum", "ah", "n"),
    ),
    "dilated": whole(*STEM, around("a", "x", 4, 4, (2, 2), (2, 2)), norm("n", "a", 4), act("r", "n")),
    "dilated, with strides and groups": whole(
        *STEM,
        around("a", "x", 4, 8, (3, 2), (3, 2), (2, 3), groups=4),
        around("b", "a", 8, 4, (1, 2), (1, 4, 2, 2)),
    ),
    "padded on one side": whole(
        around("stem", "input", 2, 4, (1, 1), (0, 0, 1, 1), (2, 2)),
        act("r", "stem"),
        around("a", "r", 4, 4, (1, 1), (2, 0, 0, 2)),
        around("b", "a", 4, 3, (1, 1), (0, 3, 0, 0), size=1),
    ),
    "pools padded on one side": whole(
        *STEM,
        Layer("max", Op.MAX_POOL, ("x",), kernel=(3, 2), stride=(2, 2), padding=(0, 0, 1, 1)),
        conv("a", "max", 4, 4),
        Layer("means", Op.AVG_POOL, ("a",), kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1)),
        conv("b", "means", 4, 3),
    ),
}
