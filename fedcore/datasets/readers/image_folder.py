"""The user's own images: PATH/CLASS/**, or PATH/train/CLASS/** and PATH/test/CLASS/**.

Decoded once into one array, which is kept until names, sizes or times of the files change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.datasets.cache import cache_directory
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning
from tinyfleet.fedcore.datasets.files.boundary import Leftovers, class_name, reading, shown
from tinyfleet.fedcore.datasets.files.class_folders import class_files, classes_of
from tinyfleet.fedcore.datasets.files.kept import KeptArray, fingerprint
from tinyfleet.fedcore.datasets.readers import images
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.run_spec import Settings


class ImageFolderSettings(Settings, frozen=True):
    """How images are brought to what a model sees: ``image-folder:PATH?size=32x32&colour=grey``."""

    size: Annotated[str, Meta(pattern=r"^([1-9]\d{0,3}x[1-9]\d{0,3})?$")] = ""  # HEIGHTxWIDTH; empty: all have one
    colour: Literal["", "grey"] = ""  # grey: colours are averaged by their luminance; empty: as they are

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width)."""
        height, _, width = self.size.partition("x")
        return (int(height), int(width)) if width else None


AS_THEY_ARE = ImageFolderSettings()


def load(
    path: Path, settings: ImageFolderSettings = AS_THEY_ARE, cache: Path | None = None
) -> tuple[Dataset, Dataset | None, str]:
    """Training part and, where there is one, test part.

    Raises ``DataError`` for a missing folder, an image that cannot be read, or images of several sizes.
    """
    if not path.is_dir():
        raise DataError(f"{shown(path)}: no such folder; give one with a folder of images for every class")
    split = (path / "train").is_dir()
    root = path / "train" if split else path
    classes = classes_of(root)
    train = _read(root, classes, settings, cache)
    test = None
    if split and (path / "test").is_dir():
        test = _read(path / "test", classes, settings, cache)
        if test.x.shape[1:] != train.x.shape[1:] or test.x.dtype != train.x.dtype:
            raise DataError(
                f"{shown(path)}: test images are {test.x.dtype} {test.x.shape[1:]}, "
                f"training images {train.x.dtype} {train.x.shape[1:]}"
            )
    return train, test, f"images of {shown(path.name)}"


def _read(root: Path, classes: list[str], settings: ImageFolderSettings, cache: Path | None) -> Dataset:
    left_out = Leftovers()
    files = class_files(root, classes, images.SUFFIXES, left_out)
    if not files:
        raise DataError(f"{shown(root)}: no images ({', '.join(sorted(images.SUFFIXES))}) in its class folders")
    kept = KeptArray((cache or cache_directory()) / "images", root, f"2 {settings.size} {settings.colour}")
    with reading(root, "a folder"):
        known = fingerprint(root, files)
    pixels = kept.read(known)
    if pixels is None:
        pixels = images.decode_all([file for file, _ in files], settings.sides, settings.colour == "grey")
        kept.write(known, pixels)
    labels = np.array([label for _, label in files], np.int64)
    meaning = Meaning(classes=tuple(map(class_name, classes)), skipped=left_out.counted())
    return Dataset(pixels, labels, len(classes), meaning)
