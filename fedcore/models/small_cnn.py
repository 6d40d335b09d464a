"""SmallCNN: a compact network for 28x28 and 32x32 images, cheap enough for the slowest board."""

from __future__ import annotations

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph


def small_cnn(input_shape: tuple[int, ...], classes: int, width: int = 16, norm: str = "batch") -> Graph:
    """A strided stem of ``width`` channels, then four 3x3 convolutions of 2, 4, 4 and 8 widths.

    Global average pooling, so any image size works. Every convolution but the stem is a block of its own.
    """
    b = GraphBuilder("small_cnn", input_shape, classes, norm)
    b.conv_norm("stem", width, stride=2)
    b.conv_norm("conv1", 2 * width)
    b.conv_norm("conv2", 4 * width, stride=2)
    b.conv_norm("conv3", 4 * width)
    b.conv_norm("conv4", 8 * width, stride=2)
    b.global_avg_pool()
    b.linear("output", classes)
    return b.build([["conv4"], ["conv3"], ["conv2"], ["conv1"]])
