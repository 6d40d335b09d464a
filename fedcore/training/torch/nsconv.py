"""The normalised weights of NSConv and their gradient, in torch, with next to nothing in memory besides."""

from __future__ import annotations

import torch

from tinyfleet.fedcore.models.graph import WeightNorm
from tinyfleet.fedcore.models.weight_norm import NORM_FLOOR


def normalized_weight(
    weight: torch.Tensor, gain: torch.Tensor, active: torch.Tensor | None, norm: WeightNorm
) -> torch.Tensor:
    """``tinyfleet.fedcore.models.weight_norm.normalized_weight`` in torch."""
    flags = None if active is None else rows(active)
    used, _, _, counted = _standardized(weight, flags, norm)
    used.mul_(gain[:, None])
    if flags is not None and counted is None:
        used.mul_(flags)
    return _unrow(used, weight)


def _standardized(
    weight: torch.Tensor, flags: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | int, torch.Tensor | None]:
    """Z = (W - mean) / s of every filter, zero where an entry does not count; s; and what ``_counted`` says.

    ``flags``: rows of the mask.
    """
    count, counted = _counted(weight, flags, norm)
    flat = rows(weight)
    z = flat - flat.sum(1, keepdim=True) / count
    if counted is not None:
        z.mul_(counted)
    scale = row_dot(z, z).clamp_min_(NORM_FLOOR).sqrt_()
    return z.div_(scale), scale, count, counted


def rows(tensor: torch.Tensor) -> torch.Tensor:
    """A filter a row; a view where images have their channels innermost."""
    if tensor.dim() != 4:
        return tensor.flatten(1)
    return tensor.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).flatten(1)


def _unrow(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of ``rows``."""
    if like.dim() != 4:
        return flat.view_as(like)
    out, inputs, height, width = like.shape
    return flat.view(out, height, width, inputs).permute(0, 3, 1, 2)


def row_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Sum of a * b over every row, (rows, 1), without their product in memory."""
    return torch.einsum("ij,ij->i", a, b)[:, None]


def _counted(
    weight: torch.Tensor, flags: torch.Tensor | None, norm: WeightNorm
) -> tuple[torch.Tensor | int, torch.Tensor | None]:
    """(N of every filter, which entries it counts; None: all)."""
    if flags is None or norm is WeightNorm.ALL:
        return weight[0].numel(), None
    return flags.sum(1, keepdim=True).clamp_min_(1), flags


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
    flags = None if active is None else rows(active)
    z, scale, count, counted = _standardized(weight, flags, norm)
    h = rows(gradient)
    if flags is not None:
        h.mul_(flags)
    of_gain = row_dot(h, z)[:, 0]
    h.mul_(gain[:, None] / scale)
    mean = h.sum(1, keepdim=True) / count
    slope = row_dot(h, z) * (scale * scale > NORM_FLOOR)
    h.sub_(mean).addcmul_(z, slope, value=-1.0)
    if counted is not None:
        h.mul_(counted)
    return _unrow(h, weight), of_gain
