"""Batch norm that caches the largest of its normalised inputs."""

from __future__ import annotations

from typing import Any

import torch

from tinyfleet.fedcore.models.graph import BN_EPSILON
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning, compress, expand, flat_memory


class PrunedBatchNorm(torch.autograd.Function):
    """Batch norm in training mode; its forward pass and shift gradient are exact.

    Input and scale gradients see the ``keep`` largest |x^| alone, made up for by the share of each channel's
    energy that they hold: dx = scale / sigma (dy - mean(dy) - x~ sum(dy x~) / sum(x~^2)).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        running: tuple[torch.Tensor, torch.Tensor] | None,
        momentum: float,
        overwrite: bool,
        pruning: Pruning,
    ) -> torch.Tensor:
        """``running`` are the mean and variance to move; ``overwrite``: x may be, nobody reads it again."""
        mean, var = running or (None, None)
        y, center, inverse = torch.ops.aten.native_batch_norm(
            x, scale, shift, mean, var, True, momentum, BN_EPSILON
        )  # fmt: skip
        channel = (1, -1, *[1] * (x.dim() - 2))
        normalised = x.sub_(center.view(channel)) if overwrite else x - center.view(channel)
        normalised.mul_(inverse.view(channel))
        flat, ctx.shape = flat_memory(normalised)
        ctx.save_for_backward(scale, inverse, *compress(flat, pruning))
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (gradient,) = outputs
        scale, inverse, bitmap, values = ctx.saved_tensors
        kept = expand(bitmap, values, ctx.shape)
        others = [0, *range(2, gradient.dim())]
        channel = (1, -1, *[1] * (gradient.dim() - 2))
        count = gradient.numel() // gradient.shape[1]
        of_shift = gradient.sum(others)
        along = (gradient * kept).sum(others)
        energy = kept.square().sum(others).clamp_min_(1e-6 * count)
        of_input = None
        if ctx.needs_input_grad[0]:
            kept.mul_((along / energy).view(channel))
            of_input = (
                gradient.sub(kept).sub_((of_shift / count).view(channel)).mul_((scale * inverse).view(channel))
            )
        return of_input, along * (count / energy), of_shift, None, None, None, None
