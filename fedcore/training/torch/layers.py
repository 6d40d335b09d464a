"""Convolutions and linear layers whose weights may be normalised and whose cached input may be pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from tinyfleet.fedcore.models.graph import Node
from tinyfleet.fedcore.models.layers.window import dilations, lopsided, pads
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning, compress, expand, flat_memory
from tinyfleet.fedcore.training.torch.nsconv import normalized_weight, normalized_weight_gradient

Collect = Callable[[Node, torch.Tensor, torch.Tensor], None]
"""Takes a layer, its (cached) input and its output's gradient during a backward pass."""


class Collector:
    """Which layers are shown to ``collect``. ``token`` makes their outputs need a gradient where no weight does."""

    def __init__(self, layers: frozenset[str], collect: Collect, device: torch.device) -> None:
        self.layers = layers
        self.collect = collect
        self.token = torch.zeros((), device=device, requires_grad=True)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a convolution or linear layer is, besides its tensors."""

    node: Node
    active: torch.Tensor | None  # the weight's mask; None: dense
    pruning: Pruning | None  # None: the input is cached as it is
    collector: Collector | None = None


def convolve(node: Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The layer's plain arithmetic, convolution or linear, of what ``padded`` gives."""
    if not node.kernel:
        return functional.linear(x, weight, bias)
    function = functional.conv1d if len(node.kernel) == 1 else functional.conv2d
    return function(x, weight, bias, node.stride, inner_padding(node), dilations(node), node.groups)


def padded(node: Node, x: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """The layer's input, with its padding where torch's own cannot be: where sides are unequal."""
    if not node.kernel or not lopsided(node):
        return x
    sides = [side for pair in zip(*pads(node), strict=True) for side in reversed(pair)]
    return functional.pad(x, sides[::-1], value=value)


def inner_padding(node: Node) -> tuple[int, ...]:
    """What is left of it to torch."""
    return (0,) * len(node.kernel) if lopsided(node) else pads(node)[0]


class Convolution(torch.autograd.Function):
    """A convolution or linear layer whose weights may be normalised and whose cached input may be pruned.

    The normalised weight is computed again for the backward pass: only W and the gains are held.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        gain: torch.Tensor | None,
        token: torch.Tensor | None,
        kernel: Kernel,
    ) -> torch.Tensor:
        used = _used_weight(weight, gain, kernel)
        cached: tuple[torch.Tensor, ...] = ()
        if ctx.needs_input_grad[1] or token is not None:
            if kernel.pruning is None:
                cached = (x,)
            else:
                flat, ctx.shape = flat_memory(x)
                cached = compress(flat, kernel.pruning)
        ctx.kernel, ctx.input_shape, ctx.biased = kernel, x.shape, bias is not None
        ctx.save_for_backward(weight, gain, *cached)
        return convolve(kernel.node, x, used, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (gradient,) = outputs
        kernel: Kernel = ctx.kernel
        weight, gain, *cached = ctx.saved_tensors
        if not cached:  # no weight gradient is wanted, so no value of the input is read
            x = _untouched(ctx.input_shape, gradient)
        elif len(cached) == 1:
            x = cached[0]
        else:
            x = expand(cached[0], cached[1], ctx.shape)
        if kernel.collector is not None:
            kernel.collector.collect(kernel.node, x, gradient)
        # The weight's gradient first: the unpacked input is gone before the input's gradient comes.
        wanted = (False, ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2])
        of_weight = of_bias = of_gain = of_input = None
        if any(wanted):
            # Of the weight only the shape is read.
            _, of_weight, of_bias = convolution_gradients(kernel.node, gradient, x, weight, wanted)
        if gain is not None and of_weight is not None:
            norm = kernel.node.weight_norm
            of_weight, of_gain = normalized_weight_gradient(of_weight, weight, gain, kernel.active, norm)
        del x, cached
        if ctx.needs_input_grad[0]:
            used = _used_weight(weight, gain, kernel)
            shaped = _untouched(ctx.input_shape, gradient)
            of_input = convolution_gradients(kernel.node, gradient, shaped, used, (True, False, False))[0]
        return of_input, of_weight, of_bias, of_gain, None, None


def _untouched(shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """A tensor of which only the shape and layout are read: no page of it is ever touched."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _used_weight(weight: torch.Tensor, gain: torch.Tensor | None, kernel: Kernel) -> torch.Tensor:
    if gain is None:
        return weight
    return normalized_weight(weight, gain, kernel.active, kernel.node.weight_norm)


def convolution_gradients(
    node: Node, gradient: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of input, weight and bias, those that are ``wanted``."""
    if not node.kernel:
        return (
            gradient @ weight if wanted[0] else None,
            gradient.T @ x if wanted[1] else None,
            gradient.sum(0) if wanted[2] else None,
        )
    padding, dilation = list(inner_padding(node)), list(dilations(node))
    result: Any = torch.ops.aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], list(node.stride), padding, dilation,
        False, [0] * len(node.kernel), node.groups, wanted,
    )  # fmt: skip
    return result[0], result[1], result[2]
