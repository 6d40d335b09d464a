"""Blocks of the networks that edge devices run, small: every kind of layers in the company it keeps in practice."""

from __future__ import annotations

from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.layers.table import output_shape


class Draft:
    """A graph that grows layer by layer; each method gives the new layer's name."""

    def __init__(self, name: str, input_shape: tuple[int, ...], classes: int = 4) -> None:
        self.name, self.input_shape, self.classes = name, input_shape, classes
        self.nodes: list[Node] = []
        self.shapes = {INPUT: input_shape}

    def layer(self, op: str, *sources: str, **attributes) -> str:
        node = Node(f"{op}{len(self.nodes)}", op, sources, **attributes)
        self.shapes[node.name] = output_shape(node, [self.shapes[source] for source in sources])
        self.nodes.append(node)
        return node.name

    def conv(self, source, out, kernel=3, stride=1, act=Op.RELU, norm=True, groups=1, padding=None, dilation=()):
        channels, *sizes = self.shapes[source]
        d = len(sizes)
        padding = (kernel // 2,) * d if padding is None else padding
        made = self.layer(
            Op.CONV, source, in_channels=channels, out_channels=out, kernel=(kernel,) * d, stride=(stride,) * d,
            padding=padding, groups=groups, bias=not norm, dilation=dilation,
        )  # fmt: skip
        if norm:
            made = self.layer(Op.BATCH_NORM, made, in_channels=out, out_channels=out)
        return self.layer(act, made) if act else made

    def linear(self, source, out):
        return self.layer(Op.LINEAR, source, in_channels=self.shapes[source][0], out_channels=out, bias=True)

    def slice(self, source, start, count):
        return self.layer(Op.SLICE, source, in_channels=self.shapes[source][0], out_channels=count, start=start)

    def pool(self, op, source, kernel, stride, padding):
        d = len(self.shapes[source]) - 1
        return self.layer(op, source, kernel=(kernel,) * d, stride=(stride,) * d, padding=padding)

    def graph(self) -> Graph:
        """All weights but the first and the last layer's may be pruned."""
        weighted = [node.name for node in self.nodes if node.op in (Op.CONV, Op.LINEAR)]
        return Graph(
            self.name, self.input_shape, self.classes, tuple(self.nodes), (tuple(reversed(weighted[1:-1])),)
        )


def squeezenet() -> Graph:
    """SqueezeNet 1.1: pools whose windows reach over the edge behind, fire modules, dropout, a convolution last."""
    d = Draft("squeezenet", (3, 25, 25))
    x = d.conv(INPUT, 8, stride=2, norm=False, padding=(0, 0))
    x = d.pool(Op.MAX_POOL, x, 3, 2, (0, 0, 1, 1))
    for squeezed, out in ((4, 8), (6, 10)):
        x = d.conv(x, squeezed, 1, norm=False)
        x = d.layer(Op.CONCAT, d.conv(x, out, 1, norm=False), d.conv(x, out, 3, norm=False))
    x = d.layer(Op.DROPOUT, x, rate=0.5)
    d.layer(Op.GLOBAL_AVG_POOL, d.conv(x, 4, 1, norm=False))
    return d.graph()


def shufflenet() -> Graph:
    """ShuffleNetV2: halves, of which one is computed with, both joined and dealt out; images halved in between."""
    d = Draft("shufflenet", (3, 16, 16))
    x = d.conv(INPUT, 8, stride=2)
    for stage in range(2):
        left = d.conv(d.conv(x, 8 << stage, 3, 2, None, groups=8 << stage), 8 << stage, 1)
        right = d.conv(x, 8 << stage, 1)
        right = d.conv(d.conv(right, 8 << stage, 3, 2, None, groups=8 << stage), 8 << stage, 1)
        x = d.layer(Op.SHUFFLE, d.layer(Op.CONCAT, left, right), groups=2)
        half = d.shapes[x][0] // 2
        kept, right = d.slice(x, 0, half), d.conv(d.slice(x, half, half), half, 1)
        right = d.conv(d.conv(right, half, 3, 1, None, groups=half), half, 1)
        x = d.layer(Op.SHUFFLE, d.layer(Op.CONCAT, kept, right), groups=2)
    d.linear(d.layer(Op.GLOBAL_AVG_POOL, x), 4)
    return d.graph()


def mobilenet_v3() -> Graph:
    """MobileNetV3-small: hard swish, squeeze-and-excitation, a residual, dropout before the last layer."""
    d = Draft("mobilenet_v3", (3, 16, 16))
    x = d.conv(INPUT, 8, stride=2, act=Op.HARD_SWISH)
    for act, stride, out in ((Op.RELU, 2, 8), (Op.HARD_SWISH, 1, 8)):
        y = d.conv(d.conv(x, 16, 1, act=act), 16, 3, stride, act, groups=16)
        gate = d.linear(d.layer(Op.RELU, d.linear(d.layer(Op.GLOBAL_AVG_POOL, y), 8)), 16)
        y = d.conv(d.layer(Op.MUL, y, d.layer(Op.HARD_SIGMOID, gate)), out, 1, act=None)
        x = d.layer(Op.ADD, y, x) if d.shapes[x] == d.shapes[y] else y
    x = d.linear(d.layer(Op.GLOBAL_AVG_POOL, d.conv(x, 24, 1, act=Op.HARD_SWISH)), 20)
    d.linear(d.layer(Op.DROPOUT, d.layer(Op.HARD_SWISH, x), rate=0.2), 4)
    return d.graph()


def ds_cnn() -> Graph:
    """DS-CNN on 13 x 10 features, with TensorFlow's SAME padding: more of it behind the image than before."""
    d = Draft("ds_cnn", (1, 14, 10))
    x = d.conv(INPUT, 8, 4, 2, padding=(1, 1, 1, 1))
    x = d.layer(Op.DROPOUT, x, rate=0.2)
    for _ in range(2):
        x = d.conv(d.conv(x, 8, 3, groups=8), 8, 1)
    x = d.conv(x, 12, 3, 2, padding=(0, 0, 1, 1))
    d.linear(d.layer(Op.FLATTEN, d.pool(Op.AVG_POOL, x, 2, 2, (0, 0))), 4)
    return d.graph()


def tcn() -> Graph:
    """A temporal convolutional network: causal, dilated convolutions of a series, with shortcuts and dropout."""
    d = Draft("tcn", (3, 24))
    x = INPUT
    for level, out in enumerate((8, 8, 10)):
        step = 2**level
        y = d.conv(x, out, 3, padding=(2 * step, 0), dilation=(step,), norm=False)
        y = d.layer(Op.DROPOUT, y, rate=0.1)
        y = d.conv(y, out, 3, padding=(2 * step, 0), dilation=(step,), norm=False)
        shortcut = x if d.shapes[x] == d.shapes[y] else d.conv(x, out, 1, act=None, norm=False)
        x = d.layer(Op.RELU, d.layer(Op.ADD, y, shortcut))
    d.linear(d.layer(Op.GLOBAL_AVG_POOL, x), 4)
    return d.graph()


def autoencoder() -> Graph:
    """A convolutional autoencoder's way down and up, with a skip and gates; what it rebuilds is pooled last."""
    d = Draft("autoencoder", (2, 12, 12))
    down = d.conv(INPUT, 6, act=Op.LEAKY_RELU)
    x = d.conv(d.pool(Op.AVG_POOL, down, 3, 2, (0, 0, 1, 1)), 8, act=Op.TANH)
    x = d.layer(Op.UPSAMPLE, x, kernel=(2, 2))
    x = d.conv(d.layer(Op.CONCAT, x, down), 6, act=None)
    x = d.layer(Op.MUL, d.layer(Op.TANH, x), d.layer(Op.SIGMOID, x))
    d.linear(d.layer(Op.GLOBAL_AVG_POOL, d.conv(x, 5)), 4)
    return d.graph()


def efficientnet_lite() -> Graph:
    """EfficientNet-Lite0: inverted residuals with ReLU6, TensorFlow's padding, dropout before the last layer."""
    d = Draft("efficientnet_lite", (3, 16, 16))
    x = d.conv(INPUT, 8, 3, 2, Op.RELU6, padding=(0, 0, 1, 1))
    y = d.conv(d.conv(x, 24, 1, act=Op.RELU6), 24, 5, 2, Op.RELU6, groups=24, padding=(1, 1, 2, 2))
    x = d.conv(y, 10, 1, act=None)
    y = d.conv(d.conv(x, 20, 1, act=Op.RELU6), 20, 3, 1, Op.RELU6, groups=20)
    x = d.layer(Op.ADD, d.conv(y, 10, 1, act=None), x)
    d.linear(d.layer(Op.DROPOUT, d.layer(Op.GLOBAL_AVG_POOL, d.conv(x, 24, 1, act=Op.RELU6)), rate=0.2), 4)
    return d.graph()


def grouped() -> Graph:
    """Convolutions in groups, as ResNeXt and the first ShuffleNet have them."""
    d = Draft("grouped", (4, 12, 12))
    x = d.conv(INPUT, 12)
    y = d.layer(Op.SHUFFLE, d.conv(x, 12, 1, groups=3), groups=3)
    x = d.layer(Op.ADD, d.conv(y, 12, 3, groups=3, act=None), x)
    d.linear(d.layer(Op.GLOBAL_AVG_POOL, d.layer(Op.RELU, x)), 4)
    return d.graph()


EDGE_MODELS = {
    graph.name: graph
    for graph in (
        squeezenet(), shufflenet(), mobilenet_v3(), ds_cnn(), tcn(), autoencoder(), efficientnet_lite(), grouped()
    )
}  # fmt: skip
