"""LeNet-5 (LeCun et al., Proceedings of the IEEE 1998) with ReLU, max pooling and batch norm."""

from __future__ import annotations

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.model import Model


def lenet5(input_shape: tuple[int, ...], classes: int, width: int = 6, norm: str = "batch") -> Graph:
    """Two 5x5 convolutions of ``width`` and 16/6 ``width`` channels, each pooled, then one of 20 ``width``."""
    b = GraphBuilder("lenet5", input_shape, classes, norm)
    b.conv_norm("conv1", width, kernel=5)
    b.max_pool("pool1")
    b.conv_norm("conv2", 16 * width // 6, kernel=5)
    b.max_pool("pool2")
    b.conv_norm("conv3", 20 * width, kernel=5)
    b.global_avg_pool()
    b.linear("output", classes)
    return b.build([["conv3"], ["conv2"]])


MODEL = Model(lenet5)
