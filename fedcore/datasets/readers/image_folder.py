"""The user's own images: PATH/CLASS/*.png, or PATH/train/CLASS/* and PATH/test/CLASS/*.

Decoded once into one uint8 array, which is cached; the cache is left when names, sizes or times of
the files change.
"""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.cache import cache_directory
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.readers.npy import read_npy
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.files import write_atomic

MOST_PIXELS = 1 << 25  # of one image; a camera's has half of it
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".pgm", ".ppm"})


def load(path: Path, cache: Path | None = None) -> tuple[Dataset, Dataset | None, str]:
    """Training part and, where there is one, test part.

    Raises ``DataError`` for a missing folder, an image that cannot be read, or images of several sizes.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give one with a folder of images for every class")
    split = (path / "train").is_dir()
    root = path / "train" if split else path
    classes = _classes(root)
    train = _read(root, classes, cache)
    test = None
    if split and (path / "test").is_dir():
        test = _read(path / "test", classes, cache)
        if test.x.shape[1:] != train.x.shape[1:]:
            raise DataError(f"{path}: test images are {test.x.shape[1:]}, training images {train.x.shape[1:]}")
    return train, test, f"images of {path.name}"


def _classes(root: Path) -> list[str]:
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise DataError(f"{root} has {len(classes)} class folders; it needs two or more, each with its images")
    return classes


def _read(root: Path, classes: list[str], cache: Path | None) -> Dataset:
    files = [
        (file, label)
        for label, name in enumerate(classes)
        if (root / name).is_dir()
        for file in sorted((root / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f"{root}: no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
    kept = (cache or cache_directory()) / "images" / f"{_fingerprint(root, files)}.images"
    labels = np.array([label for _, label in files], np.int64)
    images = _recalled(kept)
    if images is None:
        images = _decode([file for file, _ in files])
        _keep(kept, images)
    return Dataset(images, labels, len(classes), Meaning(classes=tuple(classes)))


def _recalled(kept: Path) -> AnyArray | None:
    """What was decoded before; None where it is not there, or damaged."""
    try:
        digest, content = _halves(kept.read_bytes())
        return read_npy(io.BytesIO(content), len(content)) if hashlib.sha256(content).digest() == digest else None
    except (OSError, DataError):
        return None


def _halves(data: bytes) -> tuple[bytes, memoryview]:
    size = hashlib.sha256().digest_size
    return data[:size], memoryview(data)[size:]


def _keep(kept: Path, images: AnyArray) -> None:
    """The digest of what follows, then the array."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    write_atomic(kept, hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue())


def _fingerprint(root: Path, files: list[tuple[Path, int]]) -> str:
    digest = hashlib.sha256(str(root.resolve()).encode())
    for file, label in files:
        status = file.stat()
        digest.update(f"{file.name}\0{label}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _room(count: int, pixels: AnyArray) -> AnyArray:
    try:
        return np.empty((count, *pixels.shape), np.uint8)
    except MemoryError:
        raise DataError(
            f"{count} images of {pixels.shape} take {count * pixels.size} bytes, too many; make them smaller"
        ) from None


def _decode(files: list[Path]) -> AnyArray:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs the package pillow: pip install 'tinyfleet[images]'") from None
    images: AnyArray | None = None
    for index, file in enumerate(files):
        try:
            with Image.open(file) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise DataError(f"{file} has {image.size} pixels; bring it to the size that a model sees")
                pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign bytes: the library raises what it likes
            raise DataError(f"{file} cannot be read as an image: {error}") from None
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if images is None:
            images = _room(len(files), pixels)
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{file} is {pixels.shape}, {files[0].name} is {images.shape[1:]} (channels, height, width); "
                "bring all images to one size and colour mode"
            )
        images[index] = pixels
    assert images is not None  # noqa: S101 - files is never empty
    return images
