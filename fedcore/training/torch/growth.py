"""Weight gradients of one layer from its input and output gradient: whole, or the largest pruned entries alone."""

from __future__ import annotations

import math

import torch

from tinyfleet.fedcore.models.graph import Node
from tinyfleet.fedcore.payload import SparseVector
from tinyfleet.fedcore.sparsity.topk import StreamingTopK
from tinyfleet.fedcore.training.torch.layers import convolution_gradients

TILE_ELEMENTS = 1 << 16  # of a weight gradient held at once while the largest entries are picked


def largest_pruned(
    node: Node, inputs: torch.Tensor, gradients: torch.Tensor, active: torch.Tensor, count: int
) -> SparseVector:
    """The ``count`` largest |gradients| of pruned weights, by tiles of output channels: never the whole."""
    top = StreamingTopK(count)
    shape = tuple(active.shape)
    fan_in = math.prod(shape[1:])
    # A grouped convolution ties output to input channels: its small gradient is one tile.
    tile = shape[0] if node.groups > 1 else max(4, TILE_ELEMENTS // fan_in)
    for start in range(0, shape[0], tile):
        rows = slice(start, min(start + tile, shape[0]))
        gradient = weight_gradient(node, inputs, gradients[:, rows], (rows.stop - rows.start, *shape[1:]))
        pruned = torch.nonzero(active[rows].reshape(-1).logical_not()).reshape(-1)
        values = gradient.reshape(-1)[pruned].cpu().numpy()
        top.push(pruned.cpu().numpy() + start * fan_in, values)
    return top.result()


def weight_gradient(
    node: Node, inputs: torch.Tensor, gradients: torch.Tensor, shape: tuple[int, ...]
) -> torch.Tensor:
    """Gradient of the weights that make these output channels."""
    weight_like = torch.empty(shape, device=inputs.device)
    if weight_like.dim() == 4:
        weight_like = weight_like.contiguous(memory_format=torch.channels_last)
        gradients = gradients.contiguous(memory_format=torch.channels_last)
    gradient = convolution_gradients(node, gradients, inputs, weight_like, (False, True, False))[1]
    assert gradient is not None  # noqa: S101 - it was asked for
    return gradient
