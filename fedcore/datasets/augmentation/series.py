"""Changes of series (N, C, L), the first two of any input, and of spectrograms (N, C, F, T) the masks."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray


def jitter(x: FloatArray, deviation: float, rng: np.random.Generator) -> FloatArray:
    """Noise on every value (Um et al., ICMI 2017, arXiv 1706.00527)."""
    return x + np.float32(deviation) * rng.standard_normal(x.shape, np.float32)


def scale(x: FloatArray, deviation: float, rng: np.random.Generator) -> FloatArray:
    """Each channel of a sample times 1 + a, a normal (Um et al. 2017)."""
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    return x * (1.0 + np.float32(deviation) * rng.standard_normal(shape, np.float32))


def shift(x: FloatArray, most: int, rng: np.random.Generator) -> FloatArray:
    """Earlier or later by up to so many steps of the last axis; zeros come in."""
    found, length = np.zeros_like(x), x.shape[-1]
    for index, by in enumerate(rng.integers(-most, most + 1, len(x))):
        if by >= 0:
            found[index, ..., by:] = x[index, ..., : length - by]
        else:
            found[index, ..., :by] = x[index, ..., -by:]
    return found


def mask(x: FloatArray, axis: int, most: int, rng: np.random.Generator) -> FloatArray:
    """Zeros over 0 to ``most`` neighbours along ``axis`` (SpecAugment: Park et al. 2019, arXiv 1904.08779)."""
    found, size = np.moveaxis(x.copy(), axis, 1), x.shape[axis]
    for sample, width in zip(found, rng.integers(0, most + 1, len(x)), strict=True):
        start = rng.integers(0, size - width + 1)
        sample[start : start + width] = 0.0
    return np.moveaxis(found, 1, axis)
