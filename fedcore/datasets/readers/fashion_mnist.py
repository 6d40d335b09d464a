"""Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images, 28x28x1, 10 classes, MIT licence.

From Debian's package ``dataset-fashion-mnist``, else downloaded once. The checksums are of the
uncompressed files: the same data is packed in more than one way.
"""

from __future__ import annotations

import hashlib
import math
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.cache import cache_directory
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.packed import unpacked
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.files import write_atomic

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CLASSES = (
    *("t-shirt or top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
MEANING = Meaning(classes=CLASSES)
MOST_BYTES = 50_000_000  # of one uncompressed file: the largest has 47,040,016

Fetch = Callable[[str], bytes]


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310 - the scheme is fixed, the content is hashed
        data: bytes = reply.read(MOST_BYTES)
        return data


def load(
    installed: Path = DEBIAN, cache: Path | None = None, fetch: Fetch = _download
) -> tuple[Dataset, Dataset, str]:
    """Training and test data. Raises ``DataError`` where they can be neither found nor downloaded."""
    parts = {name: _idx(_content(name, installed, cache, fetch), name) for name in SHA256}
    train, test = (
        Dataset(
            parts[f"{part}-images-idx3-ubyte"], parts[f"{part}-labels-idx1-ubyte"].astype(np.int64), 10, MEANING
        )
        for part in ("train", "t10k")
    )
    return train, test, "Fashion-MNIST"


def _content(name: str, installed: Path, cache: Path | None, fetch: Fetch) -> bytes:
    kept = (cache or cache_directory()) / "fashion-mnist" / f"{name}.gz"
    for path in (installed / f"{name}.gz", kept):
        if path.exists():
            return _verified(name, path.read_bytes(), str(path))
    try:
        packed = fetch(f"{URL}{name}.gz")
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"Fashion-MNIST is not here and cannot be downloaded ({error}); "
            "on Debian: apt install dataset-fashion-mnist"
        ) from None
    content = _verified(name, packed, f"{URL}{name}.gz")
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, packed)
    return content


def _verified(name: str, packed: bytes, where: str) -> bytes:
    try:
        content = unpacked(packed, MOST_BYTES)
    except DataError as error:
        raise DataError(f"{where} is damaged ({error}); remove it and try again") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(f"{where} does not have its known checksum; remove it and try again")
    return content


def _idx(content: bytes, name: str) -> AnyArray:
    """An IDX array of bytes: magic, one big-endian u32 a dimension, data. Raises ``DataError``."""
    images = "images" in name
    dimensions = 3 if images else 1
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{name} is no IDX file of bytes in {dimensions} dimensions; remove it and try again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, 4))
    if math.prod(shape) != len(content) - start:
        raise DataError(f"{name} has {len(content) - start} values for its shape {shape}; remove it and try again")
    array = np.frombuffer(content, np.uint8, offset=start)
    return array.reshape(shape[0], 1, *shape[1:]) if images else array
