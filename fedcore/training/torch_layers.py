"""Layers that torch lacks: convolutions that normalise their weights or cache a pruned input, compact ReLU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from fedcore.models.graph import Node, WeightNorm
from fedcore.models.layers import NORM_FLOOR
from fedcore.training.activation_pruning import Pruning, compress, expand, flat_memory, pack, unpack

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
    """The layer's plain arithmetic, convolution or linear."""
    if not node.kernel:
        return functional.linear(x, weight, bias)
    function = functional.conv1d if len(node.kernel) == 1 else functional.conv2d
    return function(x, weight, bias, node.stride, node.padding, 1, node.groups)


def normalized_weight(
    weight: torch.Tensor, gain: torch.Tensor, active: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``fedcore.models.layers.normalized_weight`` in torch: also z = (W - mean) / s and s, for the gradient."""
    count, counted = _counted(weight, active, norm)
    flat = weight.flatten(1)
    centred = flat - flat.sum(1, keepdim=True) / count
    if counted is not None:
        centred.mul_(counted)
    scale = centred.square().sum(1, keepdim=True).clamp_min_(NORM_FLOOR).sqrt_()
    z = centred.div_(scale)
    used = z * gain[:, None]
    if active is not None:
        used.mul_(active.flatten(1))
    return used.view_as(weight), z, scale


def _counted(
    weight: torch.Tensor, active: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor | int, torch.Tensor | None]:
    """(N of every filter, which entries it counts; None: all)."""
    if active is None or norm is WeightNorm.ALL:
        return weight[0].numel(), None
    rows = active.flatten(1)
    return rows.sum(1, keepdim=True).clamp_min_(1), rows


def normalized_weight_gradient(
    gradient: torch.Tensor,
    weight: torch.Tensor,
    gain: torch.Tensor,
    active: torch.Tensor | None,
    norm: WeightNorm,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of W and of the gains from that of the normalised weight.

    With H = m g G / s: dL/dW_j = H_j - sum(H) / N - z_j sum(H z) for counted entries; the last term is absent
    where the floor holds s.
    """
    _, z, scale = normalized_weight(weight, gain, active, norm)
    count, counted = _counted(weight, active, norm)
    own = gradient.flatten(1)
    if active is not None:
        own = own * active.flatten(1)
    gains = (own * z).sum(1)
    h = own * (gain[:, None] / scale)
    slope = (h * z).sum(1, keepdim=True) * (scale * scale > NORM_FLOOR)
    h = h - h.sum(1, keepdim=True) / count - z * slope
    if counted is not None:
        h.mul_(counted)
    return h.view_as(weight), gains


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
        used = _used_weight(weight, gain, kernel)
        if not cached:  # no weight gradient is wanted, so no value of the input is read
            x = gradient.new_empty(1).expand(ctx.input_shape)
        elif len(cached) == 1:
            x = cached[0]
        else:
            x = expand(cached[0], cached[1], ctx.shape, kernel.pruning.scratch)  # type: ignore[union-attr]
        if kernel.collector is not None:
            kernel.collector.collect(kernel.node, x, gradient)
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2])
        of_input, of_weight, of_bias = convolution_gradients(kernel.node, gradient, x, used, wanted)
        of_gain = None
        if gain is not None and of_weight is not None:
            norm = kernel.node.weight_norm
            of_weight, of_gain = normalized_weight_gradient(of_weight, weight, gain, kernel.active, norm)
        return of_input, of_weight, of_bias, of_gain, None, None


def _used_weight(weight: torch.Tensor, gain: torch.Tensor | None, kernel: Kernel) -> torch.Tensor:
    if gain is None:
        return weight
    return normalized_weight(weight, gain, kernel.active, kernel.node.weight_norm)[0]


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
    dilation = [1] * len(node.kernel)
    result: Any = torch.ops.aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], list(node.stride), list(node.padding), dilation,
        False, [0] * len(node.kernel), node.groups, wanted,
    )  # fmt: skip
    return result[0], result[1], result[2]


class CompactReLU(torch.autograd.Function):
    """gain max(0, x), or min(max(0, x), ceiling); in place where allowed, holding one bit a value if ``packed``."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, gain: float, ceiling: float | None, overwrite: bool, packed: bool
    ) -> torch.Tensor:
        if overwrite:
            ctx.mark_dirty(x)
        else:
            x = x.clone(memory_format=torch.preserve_format)
        x.clamp_(0.0, ceiling)
        ctx.gain, ctx.ceiling, ctx.shape = gain, ceiling, None
        if packed and any(ctx.needs_input_grad):
            flat, ctx.shape = flat_memory(x)
            ctx.save_for_backward(pack(_open(flat, ceiling)))
        if gain != 1.0:
            x.mul_(gain)
        if ctx.shape is None:
            ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (gradient,) = outputs
        (saved,) = ctx.saved_tensors
        if ctx.shape is None:
            passing = _open(saved, ctx.ceiling)
        else:
            passing = ctx.shape.view(unpack(saved, gradient.numel()))
        result = gradient * passing
        if ctx.gain != 1.0:
            result.mul_(ctx.gain)
        return result, None, None, None, None


def _open(y: torch.Tensor, ceiling: float | None) -> torch.Tensor:
    """Where the gradient passes."""
    return y > 0 if ceiling is None else (y > 0) & (y < ceiling)
