"""A ReLU that holds one bit a value for its backward pass."""

from __future__ import annotations

from typing import Any

import torch

from tinyfleet.fedcore.training.torch.activation_pruning import flat_memory, pack, unpack


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
