"""Images in IDX files, the format of the original MNIST: ``data.source = "idx:DIRECTORY"``."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.datasets.reader import DatasetParts, Reader
from tinyfleet.fedcore.errors import DataError

UNSIGNED_BYTES = 8  # the type code; others are not read
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def load(directory: Path) -> DatasetParts:
    """Grey images (N, rows, columns) and their labels. Raises ``DataError``."""
    images, labels = (_array(directory / name) for name in FILES)
    if images.ndim != 3 or labels.shape != (len(images),) or not len(images):
        raise DataError(f"{directory}: images of {images.shape}, labels of {labels.shape}; give (N, H, W) and (N,)")
    train = Dataset(images[:, None], labels.astype(np.int64), int(labels.max()) + 1)
    return train, None, f"{len(train):,} images of {directory.name}"


def _array(path: Path) -> AnyArray:
    """Two zero bytes, the type, the number of dimensions, each of them in four bytes (big-endian), the values."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give a directory with {' and '.join(FILES)}") from None
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise DataError(f"{path} is no IDX file of unsigned bytes: it begins with {content[:4].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(shape) != content[3] or len(content) - start != math.prod(shape):
        raise DataError(f"{path}: {len(content) - start} bytes of values do not fill {shape}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


READER = Reader(load, takes_path=True)
