"""VGG11 with batch norm (Simonyan and Zisserman 2015), with one linear layer, as for CIFAR."""

from __future__ import annotations

from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg11(input_shape: tuple[int, ...], classes: int, width: int = 64, norm: str = "batch") -> Graph:
    """Five stages of 3x3 convolutions, each followed by a 2x2 pool while the image is larger than one pixel.

    Five pruning blocks, output to input. The first stage is the stem, which is never masked, so the
    last stage makes two blocks, one a convolution.
    """
    b = GraphBuilder("vgg11", input_shape, classes, norm)
    names: list[list[str]] = []
    size = min(input_shape[1:])
    for index, widths in enumerate(STAGES):
        stage = []
        for unit, channels in enumerate(widths):
            stage.append(f"conv{index + 1}.{unit}")
            b.conv_norm(stage[-1], channels * width // 64)
        if size > 1:
            b.max_pool(f"pool{index + 1}")
            size //= 2
        names.append(stage)
    b.global_avg_pool()
    b.linear("output", classes)
    _, second, third, fourth, (penultimate, last) = names
    return b.build([[last], [penultimate], fourth, third, second])
