"""Residual networks (He et al. 2016): the CIFAR family (6n + 2 layers) and ResNet18."""

from __future__ import annotations

from collections.abc import Sequence

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.graph import Graph, Op


def _basic_block(b: GraphBuilder, name: str, width: int, stride: int, project: bool) -> list[str]:
    """Two 3x3 convolutions and a shortcut, a 1x1 projection where the shape changes; returns its layers."""
    source = b.last
    layers = [f"{name}.conv1", f"{name}.conv2"]
    b.conv_norm(layers[0], width, stride=stride)
    main = b.conv_norm(layers[1], width, activation=None, summed=project)
    shortcut = source
    if project:
        layers.append(f"{name}.shortcut")
        shortcut = b.conv_norm(
            layers[-1], width, kernel=1, stride=stride, activation=None, source=source, summed=True
        )
    b.add(f"{name}.add", main, shortcut)
    # An identity shortcut is positive already: a gain would multiply it block after block.
    b.activation(f"{name}.act", Op.RELU, preserve=project)
    return layers


def _residual(b: GraphBuilder, widths: Sequence[int], depth: int, stem_width: int) -> list[list[list[str]]]:
    """Stages of ``depth`` basic blocks, all but the first halving the size; layers by stage and block."""
    stages, channels = [], stem_width
    for index, width in enumerate(widths):
        blocks = []
        for unit in range(depth):
            stride = 2 if index and not unit else 1
            project = stride != 1 or channels != width
            blocks.append(_basic_block(b, f"stage{index + 1}.{unit}", width, stride, project))
            channels = width
        stages.append(blocks)
    return stages


def cifar_resnet(
    name: str, depth: int, input_shape: tuple[int, ...], classes: int, width: int = 16, norm: str = "batch"
) -> Graph:
    """ResNet with three stages of ``depth`` blocks (widths w, 2w, 4w), projection shortcuts; a block a stage."""
    b = GraphBuilder(name, input_shape, classes, norm)
    b.conv_norm("stem", width)
    stages = _residual(b, (width, 2 * width, 4 * width), depth, width)
    b.global_avg_pool()
    b.linear("output", classes)
    return b.build([[layer for block in stage for layer in block] for stage in reversed(stages)])


def resnet8(input_shape: tuple[int, ...], classes: int, width: int = 16, norm: str = "batch") -> Graph:
    """ResNet8: one block a stage."""
    return cifar_resnet("resnet8", 1, input_shape, classes, width, norm)


def resnet20(input_shape: tuple[int, ...], classes: int, width: int = 16, norm: str = "batch") -> Graph:
    """ResNet20: three blocks a stage."""
    return cifar_resnet("resnet20", 3, input_shape, classes, width, norm)


def resnet18(
    input_shape: tuple[int, ...], classes: int, width: int = 64, stem: str = "cifar", norm: str = "batch"
) -> Graph:
    """ResNet18 with a 3x3 stem, or the 7x7 stem and pool of ImageNet (``stem="imagenet"``).

    Five pruning blocks, output to input: the output layer itself is never masked, so the output side
    is the last residual unit, apart from the rest of its stage; then the stages.
    """
    b = GraphBuilder("resnet18", input_shape, classes, norm)
    if stem == "imagenet":
        b.conv_norm("stem", width, kernel=7, stride=2)
        b.max_pool("stem.pool", 3, 2, 1)
    elif stem == "cifar":
        b.conv_norm("stem", width)
    else:
        raise ConfigError(f"resnet18: stem {stem!r} is unknown; choose 'cifar' (3x3) or 'imagenet' (7x7)")
    stages = _residual(b, (width, 2 * width, 4 * width, 8 * width), 2, width)
    b.global_avg_pool()
    b.linear("output", classes)
    last, *others = reversed(stages)
    return b.build([last[1], last[0], *([layer for block in stage for layer in block] for stage in others)])
