"""In-memory labelled data and its batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Dataset:
    """``x`` is uint8 or float32 (N, C, *spatial), not yet normalised; ``y`` is int64 (N,) in [0, classes)."""

    x: AnyArray
    y: IntArray
    classes: int

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: AnyArray) -> Dataset:
        """The samples at ``indices``, in that order (a copy)."""
        return Dataset(self.x[indices], self.y[indices], self.classes)


@dataclass(frozen=True, slots=True)
class DeviceData:
    """One device's own data. ``development`` is a fixed tenth of it, never trained on by methods that use it."""

    name: str
    train: Dataset
    development: Dataset


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-channel mean and standard deviation, in units of the input divided by ``scale``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float  # 255 for uint8 images, 1 for floats

    @classmethod
    def of(cls, data: Dataset) -> Normalization:
        """Measure it on ``data`` (public data: never a device's, never test data)."""
        scale = 255.0 if data.x.dtype == np.uint8 else 1.0
        axes = (0, *range(2, data.x.ndim))
        mean = data.x.mean(axis=axes, dtype=np.float64) / scale
        std = np.maximum(data.x.std(axis=axes, dtype=np.float64) / scale, 1e-6)
        return cls(tuple(float(m) for m in mean), tuple(float(s) for s in std), scale)

    def __call__(self, x: AnyArray) -> FloatArray:
        """Normalised float32 copy of ``x``."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        factor = (1.0 / (self.scale * np.asarray(self.std))).astype(np.float32).reshape(shape)
        shift = (np.asarray(self.mean) / np.asarray(self.std)).astype(np.float32).reshape(shape)
        normalised: FloatArray = x.astype(np.float32) * factor - shift
        return normalised


def batch_count(samples: int, size: int) -> int:
    """How many batches ``batches`` makes of so many samples."""
    count = max(1, -(-samples // size))
    return count - (count > 1 and samples - (count - 1) * size == 1)


def batches(
    data: Dataset, size: int, normalization: Normalization, rng: np.random.Generator | None = None
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Normalised batches, shuffled where ``rng`` is given.

    Every sample comes once. A last batch of a single sample is merged into the one before it:
    batch norm has no variance over one sample.
    """
    order = np.arange(len(data)) if rng is None else rng.permutation(len(data))
    edges = [*range(0, len(order), size), len(order)]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        del edges[-2]
    for start, stop in zip(edges, edges[1:], strict=False):
        index = order[start:stop]
        yield normalization(data.x[index]), data.y[index]
