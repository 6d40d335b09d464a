"""The user's own arrays: an .npz file with x, y and, if there is a test split, x_test, y_test."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.datasets.readers.npy import read_npy
from tinyfleet.fedcore.errors import DataError

NAMES = ("x", "y", "x_test", "y_test")
MOST_CLASSES = 1 << 20  # a model has an output for each
LAYOUT = "x: (N, channels, ...) uint8 or float; y: (N,) integers from 0"


def load(path: Path) -> tuple[Dataset, Dataset | None, str]:
    """Read the file; nothing in it is unpickled. Raises ``DataError`` where an array is missing or odd."""
    parts = _parts(path)
    if not {"x", "y"} <= parts.keys() or ("x_test" in parts) != ("y_test" in parts):
        raise DataError(
            f"{path} holds {', '.join(parts) or 'nothing'}; it must hold {LAYOUT}; or also x_test, y_test"
        )
    classes = 1 + max(_largest(parts[name]) for name in ("y", "y_test") if name in parts)
    if classes > MOST_CLASSES:
        raise DataError(f"{path}: a label is {classes - 1}; labels count from 0, to {MOST_CLASSES - 1} at most")
    train = _dataset(parts["x"], parts["y"], classes, f"{path}: x, y")
    test = (
        _dataset(parts["x_test"], parts["y_test"], classes, f"{path}: x_test, y_test")
        if "x_test" in parts
        else None
    )
    if test is not None and test.x.shape[1:] != train.x.shape[1:]:
        raise DataError(f"{path}: x_test has samples of {test.x.shape[1:]}, x of {train.x.shape[1:]}")
    return train, test, f"arrays of {path.name}"


def _parts(path: Path) -> dict[str, AnyArray]:
    """The arrays of the file that are known here. Raises ``DataError``."""
    try:
        with path.open("rb") as whole, zipfile.ZipFile(_started(whole)) as archive:
            members = {
                name: archive.getinfo(f"{name}.npy") for name in NAMES if f"{name}.npy" in archive.namelist()
            }
            parts = {}
            for name, member in members.items():
                with archive.open(member) as file:
                    parts[name] = read_npy(file, member.file_size)
            return parts
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign bytes: zipfile raises what it likes
        raise DataError(f"{path} is no .npz file of plain arrays: {error}") from None


def _started(file: IO[bytes]) -> IO[bytes]:
    if file.read(2) != b"PK":
        raise DataError("no .npz file of plain arrays")
    return file


def _largest(labels: AnyArray) -> int:
    return int(labels.max()) if labels.size and np.issubdtype(labels.dtype, np.integer) else 0


def _dataset(x: AnyArray, y: AnyArray, classes: int, where: str) -> Dataset:
    if (
        x.ndim not in (3, 4)
        or not x.size
        or y.shape != (len(x),)
        or not np.issubdtype(y.dtype, np.integer)
        or not len(x)
    ):
        raise DataError(f"{where} have shapes {x.shape}, {y.shape} and labels of type {y.dtype}; give {LAYOUT}")
    if int(y.min()) < 0:
        raise DataError(f"{where}: label {int(y.min())} is negative; labels count from 0")
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise DataError(f"{where}: a value of x is not finite")
    return Dataset(x, y.astype(np.int64), classes)
