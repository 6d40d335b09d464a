"""In-memory labelled data and its batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, IntArray
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription, Layout, SkippedFiles

LEAST_STD = 1e-6  # of a channel
_FULL_SCALE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the arrays of a data set do not say themselves; see ``DataDescription``."""

    classes: tuple[str, ...] = ()  # empty: named by their numbers
    layout: Layout | None = None  # None: by the number of axes
    range: tuple[float, float] | None = None  # None: that of the integer type; measured values in float
    units: str = ""
    rate: float = 0.0
    channels: tuple[str, ...] = ()
    front_end: Mapping[str, int | float | str] = field(default_factory=dict)
    unlabelled: int = 0
    skipped: Mapping[str, SkippedFiles] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples ``x``, not yet normalised, and their labels ``y``, int64 (N,) in [0, classes).

    ``x`` is uint8, uint16 or float32, (N, C, *spatial).
    """

    x: AnyArray
    y: IntArray
    classes: int
    meaning: Meaning = Meaning()

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: AnyArray) -> Dataset:
        """The samples at ``indices``, in that order (a copy)."""
        return Dataset(self.x[indices], self.y[indices], self.classes, self.meaning)

    @property
    def full_range(self) -> tuple[float, float] | None:
        """Zero and full scale of the values; None for measured ones."""
        return self.meaning.range or _FULL_SCALE.get(self.x.dtype.name)

    @property
    def full_scale(self) -> float:
        """What values are divided by on their way into training; 1 for measured ones."""
        low, high = self.full_range or (0.0, 1.0)
        return high - low

    @property
    def description(self) -> DataDescription:
        """Computed from all samples. Raises ``DataError`` where a figure is beyond what may be said."""
        meaning, x = self.meaning, self.x
        try:
            return msgspec.convert(
                {
                    "shape": x.shape[1:],
                    "dtype": x.dtype.name,
                    "layout": meaning.layout or ("CL" if x.ndim == 3 else "CHW"),
                    "classes": meaning.classes or tuple(map(str, range(self.classes))),
                    "range": self.full_range,
                    "seen": (float(x.min()), float(x.max())) if x.size else None,
                    "units": meaning.units,
                    "rate": meaning.rate,
                    "channels": meaning.channels,
                    "front_end": dict(meaning.front_end),
                    "samples": np.bincount(self.y, minlength=self.classes).tolist(),
                    "unlabelled": meaning.unlabelled,
                    "skipped": dict(meaning.skipped),
                },
                DataDescription,
            )
        except msgspec.ValidationError as error:
            raise DataError(f"data that cannot be described: {error}") from None


@dataclass(frozen=True, slots=True)
class DeviceData:
    """One device's own data. ``development`` is a fixed tenth of it, never trained on by methods that use it."""

    name: str
    train: Dataset
    development: Dataset

    @property
    def description(self) -> DataDescription:
        """Of both parts together."""
        first, second = self.train.description, self.development.description
        met = [seen for seen in (first.seen, second.seen) if seen]
        return msgspec.structs.replace(
            first,
            seen=(min(low for low, _ in met), max(high for _, high in met)) if met else None,
            samples=tuple(map(sum, zip(first.samples, second.samples, strict=True))),
        )


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-channel mean and standard deviation, in units of the input divided by ``scale``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float  # full scale: 255 for 8-bit images, 1 for measured values

    @classmethod
    def of(cls, data: Dataset) -> Normalization:
        """Measure it on ``data`` (public: never a device's, never test data); of no samples it changes nothing."""
        scale = data.full_scale
        if not len(data):
            return cls((0.0,) * data.x.shape[1], (1.0,) * data.x.shape[1], scale)
        axes = (0, *range(2, data.x.ndim))
        mean = data.x.mean(axis=axes, dtype=np.float64) / scale
        std = np.maximum(data.x.std(axis=axes, dtype=np.float64) / scale, LEAST_STD)
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
