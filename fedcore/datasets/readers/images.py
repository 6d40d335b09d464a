"""Pixels of image files, of one size and kind: 8- or 16-bit grey, 8-bit RGB, or float."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.files.boundary import reading, shown
from tinyfleet.fedcore.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .bmp .dib .webp .tif .tiff .pgm .ppm .pbm .pnm".split(),  # noqa: SIM905
)
# What a file's content may be, whatever its suffix: others start programs, or are none that cameras write.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF")
MOST_PIXELS = 1 << 25  # of one image; a camera's has half of it
MOST_SIDE = 4096  # of what a model sees
_ORIENTATION = 0x0112  # EXIF; from 5 on the sides change places
_DTYPES: dict[str, Any] = {"grey": np.uint8, "rgb": np.uint8, "grey16": np.uint16, "float": np.float32}
# What two kinds in one folder become; where none stands here they do not go together.
_TOGETHER = {
    frozenset({"grey", "rgb"}): "rgb",
    frozenset({"grey", "grey16"}): "grey16",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image will be, known before it is decoded. ``size`` is (height, width), upright."""

    size: tuple[int, int]
    kind: str


def decode_all(files: Sequence[Path], size: tuple[int, int] | None, grey: bool) -> AnyArray:
    """(N, channels, height, width), in the order of ``files``; brought to ``size`` where one is given.

    Raises ``DataError``, which names the file, before anything large is allocated.
    """
    headers = [_header(file) for file in files]
    kind = _common_kind(files, headers, grey)
    wanted = size or headers[0].size
    for file, header in zip(files, headers, strict=True):
        if size is None and header.size != wanted:
            raise DataError(
                f"{shown(file)} is {header.size}, {shown(files[0].name)} is {wanted} (height, width); bring all "
                "images to one size, or say which: image-folder:PATH?size=HEIGHTxWIDTH"
            )
    pixels = _room(len(files), (3 if kind == "rgb" else 1, *wanted), _DTYPES[kind])
    for index, file in enumerate(files):
        with reading(file, "an image"), _opened(file) as image:
            pixels[index] = _pixels(image, kind, size)
    return pixels


def _opened(file: Path) -> Image:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs the package pillow: pip install 'tinyfleet[images]'") from None
    return Image.open(file, formats=FORMATS)


def _header(file: Path) -> ImageHeader:
    with reading(file, "an image"), _opened(file) as image:
        if math.prod(image.size) > MOST_PIXELS:
            raise DataError(f"it has {image.size} pixels; bring it to the size that a model sees")
        width, height = image.size
        with contextlib.suppress(Exception):  # a damaged note on how it was held does not make it unreadable
            if image.getexif().get(_ORIENTATION, 1) in range(5, 9):
                width, height = height, width
        return ImageHeader((height, width), _kind(image.mode))


def _kind(mode: str) -> str:
    if mode.startswith("I"):
        return "grey16"
    return {"L": "grey", "F": "float"}.get(mode, "rgb")


def _common_kind(files: Sequence[Path], headers: Sequence[ImageHeader], grey: bool) -> str:
    first: dict[str, Path] = {}
    for file, header in zip(files, headers, strict=True):
        first.setdefault("grey" if grey and header.kind == "rgb" else header.kind, file)
    if len(first) == 1:
        return next(iter(first))
    if kind := _TOGETHER.get(frozenset(first)):
        return kind
    met = ", ".join(f"{kind} ({shown(file)})" for kind, file in first.items())
    raise DataError(f"images of kinds that do not go together: {met}; bring all to one size and colour mode")


def _room(count: int, shape: tuple[int, ...], dtype: Any) -> AnyArray:
    try:
        return np.empty((count, *shape), dtype)
    except (MemoryError, ValueError):
        raise DataError(
            f"{count} images of {shape} take {count * math.prod(shape)} values, too many; make them smaller"
        ) from None


def _pixels(image: Image, kind: str, size: tuple[int, int] | None) -> AnyArray:
    """(channels, height, width)."""
    image = _upright(image)
    if kind == "rgb" or (kind == "grey" and image.mode != "L"):
        image = image.convert("RGB" if kind == "rgb" else "L")
    depth = 257.0 if kind == "grey16" and image.mode == "L" else 1.0
    if size is not None and (image.height, image.width) != size:
        image = _resized(image, size)
    pixels: AnyArray = np.asarray(image)
    if kind == "grey16":
        pixels = np.rint(pixels * depth)
        if not (pixels.min(initial=0.0) >= 0.0 and pixels.max(initial=0.0) <= 65535.0):
            raise DataError("its values are beyond 16 bits; scale them to 0..65535")
    elif kind == "float" and not np.isfinite(pixels).all():
        raise DataError("a value of it is not finite")
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _resized(image: Image, size: tuple[int, int]) -> Image:
    from PIL import Image

    if image.mode not in {"L", "RGB"}:  # of 16 bits Pillow resizes few kinds
        image = Image.fromarray(np.asarray(image, np.float32))
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _upright(image: Image) -> Image:
    """As it was held when it was taken."""
    from PIL import ImageOps

    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(image) or image
    return image
