"""SensorCNN: one-dimensional convolutions over windows of sensor samples, (channels, time)."""

from __future__ import annotations

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph


def sensor_cnn(input_shape: tuple[int, ...], classes: int, width: int = 32, norm: str = "batch") -> Graph:
    """A strided stem of kernel 7, then three convolutions of kernel 5 at 2, 2 and 4 widths, one a block."""
    b = GraphBuilder("sensor_cnn", input_shape, classes, norm)
    b.conv_norm("stem", width, kernel=7, stride=2)
    b.conv_norm("conv1", 2 * width, kernel=5, stride=2)
    b.conv_norm("conv2", 2 * width, kernel=5)
    b.conv_norm("conv3", 4 * width, kernel=5, stride=2)
    b.global_avg_pool()
    b.linear("output", classes)
    return b.build([["conv3"], ["conv2"], ["conv1"]])
