"""Scaled activation pruning (FedMef, section 3.3): what the backward pass keeps of a layer's input.

The forward pass and the gradient with respect to the input are exact. Only the weight gradient sees the
pruned copy: the ``activation_keep`` largest |a| of the whole tensor, as a packed bitmap and their values, which
costs that share + 1/32 of the tensor in fp32 (an int32 index a value would cost the share twice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from tinyfleet.fedcore.training.torch.layout import CHUNK

SAMPLE = 1 << 14  # entries from which the threshold is estimated: its rank errs by 0.4 % (one sigma)


@dataclass(frozen=True, slots=True)
class Pruning:
    """How inputs are kept for the backward pass: which share of them, in which precision."""

    activation_keep: float
    dtype: torch.dtype
    norms: bool = False  # batch norms' caches too


@dataclass(frozen=True, slots=True)
class Shape:
    """What a bitmap and values do not say: the tensor's shape, and whether channels are innermost."""

    sizes: tuple[int, ...]
    channels_last: bool

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """The flat memory as a tensor of this shape and layout."""
        if not self.channels_last:
            return flat.view(self.sizes)
        n, c, h, w = self.sizes
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def flat_memory(x: torch.Tensor) -> tuple[torch.Tensor, Shape]:
    """``x``'s values in the order of memory; a copy only where they do not lie densely."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return x.permute(0, 2, 3, 1).reshape(-1), Shape(tuple(x.shape), channels_last=True)
    return x.reshape(-1), Shape(tuple(x.shape), channels_last=False)


def threshold(flat: torch.Tensor, share: float) -> float:
    """The |value| that about ``share`` of the entries reach, from an even sample; exact for small tensors."""
    # An odd stride visits every residue of the powers of two by which tensors are laid out.
    stride = max(1, flat.numel() // SAMPLE) | 1
    sample = flat[::stride].abs()
    kept = max(1, round(share * sample.numel()))
    return float(torch.kthvalue(sample, sample.numel() - kept + 1).values)


def compress(flat: torch.Tensor, pruning: Pruning) -> tuple[torch.Tensor, torch.Tensor]:
    """(bitmap of uint8, values) of the ``activation_keep`` largest |entries|; zeros are never stored."""
    bound = threshold(flat, pruning.activation_keep)
    bits, values = [], []
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        kept = part.abs() >= bound if bound > 0 else part != 0
        bits.append(pack(kept))
        slots, count = slots_of(kept)
        slotted = part.new_empty(count + 1).scatter_(0, slots, part)
        values.append(slotted[1:].to(pruning.dtype))
    return torch.cat(bits), torch.cat(values)


def expand(bitmap: torch.Tensor, values: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The pruned tensor."""
    flat = torch.empty(math.prod(shape.sizes), device=bitmap.device)
    slotted = values.new_zeros(CHUNK + 1, dtype=flat.dtype)
    used = 0
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK]
        slots, count = slots_of(unpack(bitmap[start // 8 : (start + CHUNK) // 8], part.numel()))
        slotted[1 : count + 1] = values[used : used + count]
        torch.index_select(slotted, 0, slots, out=part)
        used += count
    return shape.view(flat)


def slots_of(kept: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(where each entry's value lies among the kept ones, from 1; slot 0 for all others, how many are kept).

    A running count has no branch to mispredict: a third of the time of selecting by a mask or by positions.
    """
    slots = torch.cumsum(kept, 0)
    count = int(slots[-1])
    return slots.mul_(kept), count


def pack(flags: torch.Tensor) -> torch.Tensor:
    """Bools (n,) -> ceil(n / 8) bytes, the first flag in the lowest bit."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.packbits(flags.numpy(), bitorder="little"))
    return pack_anywhere(flags)


def unpack(bits: torch.Tensor, count: int) -> torch.Tensor:
    """The inverse of ``pack``: ``count`` bools."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little").view(np.bool_))
    return unpack_anywhere(bits, count)


def pack_anywhere(flags: torch.Tensor) -> torch.Tensor:
    """``pack`` on any device."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -flags.numel() % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=flags.device)
    return (padded * powers).sum(1, dtype=torch.uint8)


def unpack_anywhere(bits: torch.Tensor, count: int) -> torch.Tensor:
    """``unpack`` on any device."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    flags: torch.Tensor = ((bits[:, None] >> shifts) & 1).view(-1)[:count].bool()
    return flags
