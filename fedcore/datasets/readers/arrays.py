"""The user's own arrays: an .npz file with x, y and, if there is a test split, x_test, y_test.

What the arrays do not say themselves may stand beside them: ``classes``, ``layout``, ``range``, ``units``,
``rate``, ``channels``.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, IntArray
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.boundary import class_name, reading, shown
from tinyfleet.fedcore.datasets.files.npy import read_npy
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import MOST_CLASSES

ARRAYS = ("x", "y", "x_test", "y_test")
BESIDE = ("classes", "layout", "range", "units", "rate", "channels")
LAYOUT = "x: (N, channels, ...) uint8 or float; y: (N,) integers from 0"
# Where the axis of the channels stands in a sample; None: there is one channel, and no axis of it.
LAYOUTS: dict[str, int | None] = {"NCHW": 0, "NHWC": 2, "NHW": None, "NCL": 0, "NLC": 1, "NL": None}


def load(path: Path) -> tuple[Dataset, Dataset | None, str]:
    """Read the file; nothing in it is unpickled. Raises ``DataError`` where an array is missing or odd."""
    with reading(path, "an .npz file of plain arrays"):
        parts = _parts(path)
        if not {"x", "y"} <= parts.keys() or ("x_test" in parts) != ("y_test" in parts):
            raise DataError(
                f"it holds {', '.join(parts) or 'nothing'}; it must hold {LAYOUT}; or also x_test, y_test"
            )
        meaning, layout, scale = _beside(parts)
        labels = [_labels(parts[name], meaning.classes, name) for name in ("y", "y_test") if name in parts]
        classes = len(meaning.classes) or 1 + max(int(one.max(initial=0)) for one in labels)
        if classes > MOST_CLASSES:
            raise DataError(f"a label of y is {classes - 1}; labels count from 0, to {MOST_CLASSES - 1} at most")
        labels = _from_zero(labels, classes)
        samples = [_samples(parts[name], layout, scale, name) for name in ("x", "x_test") if name in parts]
        for x, y, name in zip(samples, labels, ("x, y", "x_test, y_test"), strict=False):
            if len(x) != len(y):
                raise DataError(f"{name} have shapes {x.shape}, {y.shape}; give {LAYOUT}")
        if samples[-1].shape[1:] != samples[0].shape[1:]:
            raise DataError(f"x_test has samples of {samples[-1].shape[1:]}, x of {samples[0].shape[1:]}")
        if meaning.channels and len(meaning.channels) != samples[0].shape[1]:
            raise DataError(f"channels names {len(meaning.channels)}, and a sample has {samples[0].shape[1]}")
        train, *test = (Dataset(x, y, classes, meaning) for x, y in zip(samples, labels, strict=True))
        return train, (test[0] if test else None), f"arrays of {shown(path.name)}"


def _parts(path: Path) -> dict[str, AnyArray]:
    """The arrays of the file that are known here. Raises ``DataError``, which names the array."""
    with path.open("rb") as whole, zipfile.ZipFile(_started(whole)) as archive:
        names = set(archive.namelist())
        parts = {}
        for name in (*ARRAYS, *BESIDE):
            if f"{name}.npy" not in names:
                continue
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                try:
                    parts[name] = read_npy(file, member.file_size, words=name not in {"x", "x_test"})
                except DataError as error:
                    raise DataError(f"{name}: {error}") from None
        return parts


def _started(file: IO[bytes]) -> IO[bytes]:
    if file.read(2) != b"PK":
        raise DataError("no .npz file of plain arrays, which numpy.savez(FILE, x=..., y=...) writes")
    return file


def _beside(parts: dict[str, AnyArray]) -> tuple[Meaning, str, tuple[float, float] | None]:
    """(what is said, the layout or "", the scale that x is brought to 0..1 from)."""
    classes = tuple(class_name(word) for word in _words(parts, "classes"))
    if "classes" in parts and (not classes or len(set(classes)) != len(classes) or not all(classes)):
        raise DataError(f"classes are {', '.join(classes) or 'none'}; give each label's name, all different")
    layout = next(iter(_words(parts, "layout")), "")
    if layout and layout not in LAYOUTS:
        raise DataError(f"layout is {shown(layout)!r}; give one of {', '.join(LAYOUTS)}")
    numbers = _numbers(parts, "range")
    if numbers and not (len(numbers) == 2 and numbers[0] < numbers[1]):
        raise DataError(f"range is {numbers}; give the values of zero and of full scale: [0, 1], say")
    rates = _numbers(parts, "rate") or [0.0]
    meaning = Meaning(
        classes=classes,
        range=(0.0, 1.0) if numbers else None,
        units=next(iter(_words(parts, "units")), ""),
        rate=rates[0],
        channels=tuple(_words(parts, "channels")),
    )
    return meaning, layout, (numbers[0], numbers[1]) if numbers else None


def _words(parts: dict[str, AnyArray], name: str) -> list[str]:
    if name not in parts:
        return []
    array = parts[name].reshape(-1)
    if array.dtype.kind not in "US" or len(array) > MOST_CLASSES:
        raise DataError(f"{name} is an array of {array.dtype}; give words")
    return _texts(array)


def _texts(array: AnyArray) -> list[str]:
    return [word.decode("utf-8") if isinstance(word, bytes) else str(word) for word in array.tolist()]


def _numbers(parts: dict[str, AnyArray], name: str) -> list[float]:
    if name not in parts:
        return []
    array = parts[name].reshape(-1)
    if array.dtype.kind not in "iuf" or not 1 <= len(array) <= 2 or not np.isfinite(array).all():
        raise DataError(f"{name} is an array of {array.dtype} and {len(array)} values; give one or two numbers")
    return [float(value) for value in array]


def _labels(y: AnyArray, classes: tuple[str, ...], name: str) -> IntArray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.dtype.kind in "biuf":
        raise DataError(
            f"{name} has shape {y.shape}: labels are one integer a sample; of one row a sample, give y.argmax(1)"
        )
    if y.ndim != 1:
        raise DataError(f"{name} has shape {y.shape}; give {LAYOUT}")
    if y.dtype.kind in "US":
        return _named(y, classes, name)
    if y.dtype.kind not in "iu":
        raise DataError(f"{name} has labels of type {y.dtype}; give integers from 0")
    if y.size and int(y.min()) < 0:
        raise DataError(f"{name}: label {int(y.min())} is negative; labels count from 0")
    if y.size and int(y.max()) > MOST_CLASSES:
        raise DataError(f"{name}: a label is {int(y.max())}; labels count from 0, to {MOST_CLASSES - 1} at most")
    return y.astype(np.int64)


def _named(y: AnyArray, classes: tuple[str, ...], name: str) -> IntArray:
    """Labels that are words, by the place of the word among the classes."""
    if not classes:
        met = ", ".join(sorted(set(_texts(y[:1000])))[:5])
        raise DataError(
            f"the labels of {name} are words ({met}); give integers from 0, or beside them "
            "classes, an array of these words in the order of the model's outputs"
        )
    labels = {word: label for label, word in enumerate(classes)}
    words = [class_name(word) for word in _texts(y)]
    if unknown := next((word for word in words if word not in labels), None):
        raise DataError(f"a label of {name} is {unknown!r}, which is not among classes: {', '.join(classes[:12])}")
    return np.array([labels[word] for word in words], np.int64)


def _from_zero(labels: list[IntArray], classes: int) -> list[IntArray]:
    """Named classes that count from 1 are known by their last label, which would be one too many."""
    met = [one for one in labels if one.size]
    most, least = max((int(y.max()) for y in met), default=0), min((int(y.min()) for y in met), default=0)
    if most < classes:
        return labels
    if most == classes and least >= 1:
        return [y - 1 for y in labels]
    raise DataError(
        f"a label of y is {most}, and classes has {classes} names; labels count from 0 to {classes - 1}"
    )


def _samples(x: AnyArray, layout: str, scale: tuple[float, float] | None, name: str) -> AnyArray:
    if layout:
        if x.ndim != len(layout):
            raise DataError(f"{name} has shape {x.shape}, which is not {layout}")
        axis = LAYOUTS[layout]
        x = x[:, None] if axis is None else np.ascontiguousarray(np.moveaxis(x, axis + 1, 1)) if axis else x
    if x.ndim not in (3, 4) or not x.size:
        raise DataError(
            f"{name} has shape {x.shape}, none of samples; give {LAYOUT}; or say layout: NHWC, NHW, ..."
        )
    if x.dtype != np.uint8 or scale:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"a value of {name} is not finite: {_first_odd(x)}; leave such samples out")
    if scale and scale != (0.0, 1.0):
        x = (x - np.float32(scale[0])) / np.float32(scale[1] - scale[0])
    return x


def _first_odd(x: AnyArray) -> str:
    place = np.argwhere(~np.isfinite(x))[0]
    value: Any = x[tuple(place)]
    return f"{value} in sample {place[0]}"
