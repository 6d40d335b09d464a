"""Dropout that draws by a counter, as the native engine does: the same values are zero in both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinyfleet.fedcore.training.torch.layout import CHUNK

MOST_LANES = 16  # samples that the native engine lays out innermost: largest power of two that divides them
PASS_STRIDE = 0x100000001B3  # from one pass's seed to the next's
WORD = 0xFFFFFFFFFFFFFFFF


class CountedDropout(torch.autograd.Function):
    """Holds nothing: the backward pass draws the same again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
        ctx.rate, ctx.seed = rate, seed
        return x * _factors(x, rate, seed)

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> Any:
        (gradient,) = outputs
        return gradient * _factors(gradient, ctx.rate, ctx.seed), None, None


def seed_of(passed: int, layer: int) -> int:
    """Of that pass in the ``layer``-th layer."""
    return (passed * PASS_STRIDE + layer) & WORD


def _factors(like: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
    """0 with probability ``rate``, else 1 / (1 - rate); a value of the sample, the channel and the place."""
    samples, channels, *spatial = like.shape
    lanes = math.gcd(samples, MOST_LANES)
    pixels = math.prod(spatial)
    kept = np.empty(samples * channels * pixels, np.bool_)
    base, bound = _mixed(np.array([seed], np.uint64)), np.uint64(float(np.float32(rate)) * 2.0**32)
    for start in range(0, len(kept), CHUNK):  # a hash takes many times what its bit does
        part = kept[start : start + CHUNK]
        counts = np.arange(start, start + len(part), dtype=np.uint64)
        np.greater_equal(_mixed(counts + base) >> np.uint64(32), bound, out=part)
    # The counter runs over blocks of samples, channels, places and the samples of a block.
    ordered = kept.reshape(samples // lanes, channels, pixels, lanes).transpose(0, 3, 1, 2).reshape(like.shape)
    scale = np.float32(1.0) / (np.float32(1.0) - np.float32(rate))
    factors = torch.from_numpy(ordered * scale).to(like.device, like.dtype)
    return factors.contiguous(memory_format=torch.channels_last) if like.dim() == 4 else factors


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele et al. 2014): a good hash of a counter. Arithmetic is modulo 2^64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
