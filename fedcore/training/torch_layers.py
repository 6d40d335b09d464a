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
) -> torch.Tensor:
    """``fedcore.models.layers.normalized_weight`` in torch."""
    used, _ = _standardized(weight, active, norm)
    used.mul_(gain[:, None])
    if active is not None and norm is WeightNorm.ALL:
        used.mul_(_rows(active))
    return _unrow(used, weight)


def _standardized(
    weight: torch.Tensor, active: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """Z = (W - mean) / s of every filter, zero where an entry does not count, and s."""
    count, counted = _counted(weight, active, norm)
    flat = _rows(weight)
    z = flat - flat.sum(1, keepdim=True) / count
    if counted is not None:
        z.mul_(counted)
    scale = _row_dot(z, z).clamp_min_(NORM_FLOOR).sqrt_()
    return z.div_(scale), scale


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """A filter a row; a view where images have their channels innermost."""
    if tensor.dim() != 4:
        return tensor.flatten(1)
    return tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1)


def _unrow(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_rows``."""
    if like.dim() != 4:
        return rows.view_as(like)
    out, inputs, height, width = like.shape
    return rows.view(out, height, width, inputs).permute(0, 3, 1, 2)


def _row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sum of a * b over every row, (rows, 1), without their product in memory."""
    return torch.einsum("ij,ij->i", a, b)[:, None]


def _counted(
    weight: torch.Tensor, active: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor | int, torch.Tensor | None]:
    """(N of every filter, which entries it counts; None: all)."""
    if active is None or norm is WeightNorm.ALL:
        return weight[0].numel(), None
    rows = _rows(active)
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
    where the floor holds s. ``gradient`` is overwritten.
    """
    z, scale = _standardized(weight, active, norm)
    count, counted = _counted(weight, active, norm)
    h = _rows(gradient)
    if active is not None:
        h.mul_(_rows(active))
    of_gain = _row_dot(h, z)[:, 0]
    h.mul_(gain[:, None] / scale)
    mean = h.sum(1, keepdim=True) / count
    slope = _row_dot(h, z) * (scale * scale > NORM_FLOOR)
    h.sub_(mean).addcmul_(z, slope, value=-1.0)
    if counted is not None:
        h.mul_(counted)
    return _unrow(h, weight), of_gain


class Convolution(torch.autograd.Function):
    """A convolution or linear layer whose weights may be normalised and whose cached input may be pruned.

    ``gain`` (out,) multiplies the filters, normalised or not. The weight that is used is computed again for
    the backward pass: only W and the gains are held.
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
            # A fixed batch norm behind the layer scales its filters: the gradient is that of W all the same.
            scaled = (
                gradient if gain is None or kernel.node.weight_norm else gradient * _per_channel(gain, gradient)
            )
            kernel.collector.collect(kernel.node, x, scaled)
            del scaled
        # The weight's gradient first: the unpacked input is gone before the input's gradient comes.
        wanted = (False, ctx.needs_input_grad[1], ctx.biased and ctx.needs_input_grad[2])
        of_weight = of_bias = of_gain = of_input = None
        if any(wanted):
            # Of the weight only the shape is read.
            _, of_weight, of_bias = convolution_gradients(kernel.node, gradient, x, weight, wanted)
        if gain is not None and of_weight is not None:
            of_weight, of_gain = _through_gain(of_weight, weight, gain, kernel)
        del x, cached
        if ctx.needs_input_grad[0]:
            used = _used_weight(weight, gain, kernel)
            shaped = _untouched(ctx.input_shape, gradient)
            of_input = convolution_gradients(kernel.node, gradient, shaped, used, (True, False, False))[0]
        return of_input, of_weight, of_bias, of_gain, None, None


def _through_gain(
    gradient: torch.Tensor, weight: torch.Tensor, gain: torch.Tensor, kernel: Kernel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of weight and gain from that of ``_used_weight``, which is overwritten."""
    if kernel.node.weight_norm:
        return normalized_weight_gradient(gradient, weight, gain, kernel.active, kernel.node.weight_norm)
    of_gain = _row_dot(_rows(gradient), _rows(weight))[:, 0]
    return gradient.mul_(gain.view(-1, *[1] * (weight.dim() - 1))), of_gain


def _untouched(shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """A tensor of which only the shape and layout are read: no page of it is ever touched."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _per_channel(gain: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return gain.view(1, -1, *[1] * (like.dim() - 2))


def _used_weight(weight: torch.Tensor, gain: torch.Tensor | None, kernel: Kernel) -> torch.Tensor:
    if gain is None:
        return weight
    if not kernel.node.weight_norm:
        return weight * gain.view(-1, *[1] * (weight.dim() - 1))
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
    dilation = [1] * len(node.kernel)
    result: Any = torch.ops.aten.convolution_backward(
        gradient, x, weight, [weight.shape[0]], list(node.stride), list(node.padding), dilation,
        False, [0] * len(node.kernel), node.groups, wanted,
    )  # fmt: skip
    return result[0], result[1], result[2]


class CompactReLU(torch.autograd.Function):
    """gain max(0, x), or min(max(0, x), ceiling), holding one bit a value if ``packed``.

    ``overwrite``: x may be overwritten; ``own_gradient``: so may the output's gradient, which nobody else has.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gain: float,
        ceiling: float | None,
        packed: bool,
        overwrite: bool,
        own_gradient: bool,
    ) -> torch.Tensor:
        if overwrite:
            ctx.mark_dirty(x)
        else:
            x = x.clone(memory_format=torch.preserve_format)
        x.clamp_(0.0, ceiling)
        ctx.gain, ctx.ceiling, ctx.own_gradient, ctx.shape = gain, ceiling, own_gradient, None
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
        result = gradient.mul_(passing) if ctx.own_gradient else gradient * passing
        if ctx.gain != 1.0:
            result.mul_(ctx.gain)
        return result, None, None, None, None, None


def _open(y: torch.Tensor, ceiling: float | None) -> torch.Tensor:
    """Where the gradient passes."""
    return y > 0 if ceiling is None else (y > 0) & (y < ceiling)
