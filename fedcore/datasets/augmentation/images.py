"""Changes of images (N, C, H, W) that are normalised: zero is the mean. Each sample has its own draw."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray


def crop(x: FloatArray, padding: int, rng: np.random.Generator) -> FloatArray:
    """Zeros around, and a window of the old size from anywhere in it (Krizhevsky et al. 2012; He et al. 2016)."""
    _, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    found = np.empty_like(x)
    for index, (top, left) in enumerate(rng.integers(0, 2 * padding + 1, (len(x), 2))):
        found[index] = padded[index, :, top : top + height, left : left + width]
    return found


def flip(x: FloatArray, share: float, rng: np.random.Generator) -> FloatArray:
    """Left and right are exchanged in about that share of the samples."""
    chosen = rng.random(len(x)) < share
    found = x.copy()
    found[chosen] = found[chosen, :, :, ::-1]
    return found


def cutout(x: FloatArray, side: int, rng: np.random.Generator) -> FloatArray:
    """A square of zeros, whose centre is anywhere in the image (DeVries and Taylor 2017, arXiv 1708.04552)."""
    _, _, height, width = x.shape
    found = x.copy()
    centres = rng.integers(0, (height, width), (len(x), 2))
    for image, (row, column) in zip(found, centres, strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0.0
    return found


def colour(x: FloatArray, deviation: float, rng: np.random.Generator) -> FloatArray:
    """Contrast times 1 + a and brightness plus b, a and b normal: one of each a channel of a sample."""
    shape = (*x.shape[:2], 1, 1)
    contrast = 1.0 + np.float32(deviation) * rng.standard_normal(shape, np.float32)
    brightness = np.float32(deviation) * rng.standard_normal(shape, np.float32)
    changed: FloatArray = x * contrast + brightness
    return changed
