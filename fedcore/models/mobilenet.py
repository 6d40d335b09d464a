"""MobileNetV2 (Sandler et al. 2018), with strides for small images."""

from __future__ import annotations

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph, Op

# Expansion, channels, repeats, stride of the first repeat; ImageNet's 2 is 1 in the second row and the stem.
ROWS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _scaled(channels: int, width: float) -> int:
    """Channels times the width multiplier, a multiple of 8, never under 90 % of the product."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def mobilenet_v2(input_shape: tuple[int, ...], classes: int, width: float = 1.0, norm: str = "batch") -> Graph:
    """Inverted residuals; a pruning block a row of the table, the head's 1x1 convolution with the last.

    Depthwise convolutions stay dense: they hold 3 % of the weights, and a filter of nine weights at
    density 0.05 would mostly be dead.
    """
    b = GraphBuilder("mobilenet_v2", input_shape, classes, norm)
    b.conv_norm("stem", _scaled(32, width), activation=Op.RELU6)
    channels = _scaled(32, width)
    blocks: list[list[str]] = []
    for row, (expansion, wanted, repeats, first_stride) in enumerate(ROWS):
        layers: list[str] = []
        out = _scaled(wanted, width)
        for unit in range(repeats):
            name, source, hidden = f"row{row + 1}.{unit}", b.last, channels * expansion
            stride = first_stride if unit == 0 else 1
            if expansion != 1:
                layers.append(f"{name}.expand")
                b.conv_norm(layers[-1], hidden, kernel=1, activation=Op.RELU6)
            b.conv_norm(f"{name}.depthwise", hidden, stride=stride, groups=hidden, activation=Op.RELU6)
            layers.append(f"{name}.project")
            projected = b.conv_norm(layers[-1], out, kernel=1, activation=None)
            if stride == 1 and channels == out:
                b.add(f"{name}.add", projected, source)
            channels = out
        blocks.append(layers)
    b.conv_norm("head", max(1280, _scaled(1280, width)), kernel=1, activation=Op.RELU6)
    blocks[-1].append("head")
    b.global_avg_pool()
    b.linear("output", classes)
    return b.build(blocks[::-1])
