"""Data sets in files: arrays, folders of images, IDX, tables."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import struct
import wave
import zipfile
from pathlib import Path

import numpy as np

from tests.fuzz.mutation import damaged
from tests.fuzz.target import Prepared, Target, file_parse
from tinyfleet.fedcore.datasets.readers import arrays, builtin, fashion_mnist, image_folder, listed, sounds, tables
from tinyfleet.fedcore.datasets.readers.image_folder import ImageFolderSettings
from tinyfleet.fedcore.errors import DataError

TYPES = (
    *("|O", "<f8", "<U9", "V5", "<M8[s]", "<c16", "|b1", ">i8", "<u8", "<i8", "<f4", "|u1", "<f2", "<i4"),
    *("[('a','<i4')]", "nonsense", "<f99999999999"),
)
SHAPES = (
    *("(6, 1, 4, 4)", "(6,)", "(0,)", "()", "(-1,)", "(6, 0, 4, 4)", "(2, 3)", "(6, 4, 4)", "(0, 1, 4, 4)"),
    *("(100000000000, 1, 4, 4)", "(1000000, 1, 100, 100)", "(6", "'x'", "(True,)", "(" * 300),
)


def _npy(kind: str, shape: str, body: bytes, order: str = "False") -> bytes:
    described = kind if kind.startswith("[") else repr(kind)
    header = f"{{'descr': {described}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) & 0xFFFF) + header + body


def _zip(parts: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, method)
    return buffer.getvalue()


def _arrays(directory: Path) -> Prepared:
    x = _npy("|u1", "(6, 1, 4, 4)", bytes(96))
    y = _npy("<i8", "(6,)", struct.pack("<6q", 0, 1, 2, 0, 1, 2))
    test = {"x_test": _npy("|u1", "(2, 1, 4, 4)", bytes(32)), "y_test": _npy("<i8", "(2,)", bytes(16))}
    words = _npy("<U1", "(6,)", "abcabc".encode("utf-32-le"))
    beside = {
        "classes": _npy("<U1", "(3,)", "abc".encode("utf-32-le")),
        "layout": _npy("<U4", "()", "NCHW".encode("utf-32-le")),
        "range": _npy("<f8", "(2,)", struct.pack("<2d", 0.0, 255.0)),
        "rate": _npy("<f8", "()", struct.pack("<d", 50.0)),
        "units": _npy("<U1", "()", "g".encode("utf-32-le")),
        "channels": _npy("<U1", "(1,)", "x".encode("utf-32-le")),
    }
    seeds = [
        _zip({"x": x, "y": y}),
        _zip({"x": x, "y": words, **beside}),
        _zip({"x": x, "y": y, **test}, zipfile.ZIP_STORED),
        y,
    ]

    def vary(rng: random.Random, seed: bytes) -> bytes:
        if rng.random() < 0.5:
            return damaged(rng, seed)
        parts = {
            name: _npy(
                rng.choice(TYPES),
                rng.choice(SHAPES),
                rng.randbytes(rng.choice((0, 48, 96, 384, 768))),
                rng.choice(("False", "True", "0")),
            )
            for name in ("x", "y")
        }
        known = rng.choice(("x", "y", ""))
        parts |= {known: {"x": x, "y": y}[known]} if known else {}
        for name in rng.sample(sorted(beside), rng.choice((0, 1, 3))):
            odd = _npy(rng.choice(TYPES), rng.choice(SHAPES), rng.randbytes(48))
            parts[name] = rng.choice((beside[name], odd))
        return _zip(parts, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))

    return Prepared(file_parse(directory / "data.npz", arrays.load), seeds, vary)


def _pictures() -> dict[str, bytes]:
    from PIL import Image

    pixels = (np.arange(192) % 255).astype(np.uint8).reshape(8, 8, 3)
    found = {}
    for suffix, kind in (
        ("png", "PNG"),
        ("jpg", "JPEG"),
        ("bmp", "BMP"),
        ("webp", "WEBP"),
        ("ppm", "PPM"),
        ("tif", "TIFF"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        found[suffix] = buffer.getvalue()
    for suffix, kind, grey in (
        ("pgm", "PPM", pixels[:, :, 0]),
        ("tiff", "TIFF", pixels[:, :, 0].astype(np.uint16)),
    ):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, kind)
        found[suffix] = buffer.getvalue()
    return found


def _images(directory: Path) -> Prepared:
    """The suffix, a zero byte, the file."""
    root = directory / "images"
    pictures = _pictures()
    for name in "ab":
        (root / name).mkdir(parents=True)
    (root / "a" / "0.png").write_bytes(pictures["png"])
    place = root / "b"

    def parse(data: bytes) -> object:
        suffix, _, content = data.partition(b"\0")
        for file in place.iterdir():
            file.unlink()
        for kept in (directory / "cache").glob("images/*"):
            kept.unlink()
        (place / f"1.{suffix.decode('ascii', 'ignore') if suffix.isalnum() else 'png'}").write_bytes(content)
        return image_folder.load(root, cache=directory / "cache")

    def vary(rng: random.Random, seed: bytes) -> bytes:
        suffix, _, content = seed.partition(b"\0")
        if rng.random() < 0.1:
            suffix = rng.choice(list(pictures)).encode()
        if rng.random() < 0.1 and suffix == b"png":
            content = content[:16] + struct.pack(">II", rng.choice((1, 60000, 2**31)), 60000) + content[24:]
        return suffix + b"\0" + damaged(rng, content)

    return Prepared(parse, [s.encode() + b"\0" + content for s, content in pictures.items()], vary)


def _kept_images(directory: Path) -> Prepared:
    """The decoded images that are kept: damaged, they are decoded again."""
    root = directory / "images"
    for name in "ab":
        (root / name).mkdir(parents=True)
        (root / name / "0.png").write_bytes(_pictures()["png"])
    image_folder.load(root, cache=directory / "cache")
    (kept,) = (directory / "cache" / "images").iterdir()
    whole = kept.read_bytes()

    def read(_: Path) -> object:
        train, _, _ = image_folder.load(root, cache=directory / "cache")
        assert train.x.shape == (2, 3, 8, 8)
        assert train.x.dtype == np.uint8
        return train

    return Prepared(file_parse(kept, read), [whole])


def _idx(directory: Path) -> Prepared:
    """A packed IDX file whose checksum is taken for the known one; the others are whole."""
    images = struct.pack(">IIII", 0x803, 3, 4, 4) + bytes(48)
    labels = struct.pack(">II", 0x801, 3) + bytes(3)
    known = dict(fashion_mnist.SHA256)
    first = next(iter(known))

    def parse(data: bytes) -> object:
        packed = {name: gzip.compress(images if "images" in name else labels) for name in known}
        packed[first] = data
        for name, content in packed.items():
            (directory / f"{name}.gz").write_bytes(content)
        try:
            for name, content in packed.items():
                if name != first:
                    fashion_mnist.SHA256[name] = hashlib.sha256(gzip.decompress(content)).hexdigest()
            fashion_mnist.SHA256[first] = _digest(data)
            return fashion_mnist.load(directory, directory / "cache", _nothing)
        finally:
            fashion_mnist.SHA256.update(known)

    def vary(rng: random.Random, seed: bytes) -> bytes:
        if rng.random() < 0.3:
            return damaged(rng, seed)
        if rng.random() < 0.02:
            return gzip.compress(bytes(rng.choice((60_000_000, 200_000_000))), 1)
        return gzip.compress(damaged(rng, images), 1, mtime=0)

    return Prepared(parse, [gzip.compress(images, mtime=0)], vary)


def _digest(packed: bytes) -> str:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            return hashlib.sha256(file.read(fashion_mnist.MOST_BYTES)).hexdigest()
    except Exception:  # noqa: BLE001 - then it is not asked for
        return ""


def _nothing(url: str) -> bytes:
    raise OSError("no network here")


def _tables(directory: Path) -> Prepared:
    rows = b"".join(b",".join(str((r * c) % 16).encode() for c in range(5)) + b"\n" for r in range(9))

    def vary(rng: random.Random, seed: bytes) -> bytes:
        return damaged(rng, seed) if rng.random() < 0.4 else gzip.compress(damaged(rng, rows), 1, mtime=0)

    read = file_parse(directory / "rows.csv.gz", lambda path: builtin._csv(path, 5, "install it"))
    return Prepared(read, [gzip.compress(rows, mtime=0)], vary)


def _series(directory: Path) -> Prepared:
    rows = [f"{n},{n * 3 % 7},{-n / 8},{'walk' if n // 8 % 2 else 'sit'}" for n in range(40)]
    seeds = ["\n".join(["time,x,y,activity", *rows]).encode(), "\n".join(rows).replace(",", "\t").encode()]
    settings = tables.TableSettings(window=4, label="activity")
    return Prepared(file_parse(directory / "walk.csv", lambda path: tables.load(path, settings)), seeds)


def _recordings(directory: Path) -> Prepared:
    root = directory / "sounds"
    for name in "ab":
        (root / name).mkdir(parents=True)
    seeds = []
    for width, channels in ((1, 1), (2, 2), (3, 1), (4, 1)):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as sound:
            sound.setparams((channels, width, 8000, 0, "NONE", ""))
            sound.writeframes(bytes(range(250)) * 6 * width)
        seeds.append(buffer.getvalue())
    (root / "a" / "0.wav").write_bytes(seeds[0])
    settings = sounds.SoundSettings(rate=8000, seconds=0.1, mels=8)
    return Prepared(file_parse(root / "b" / "0.wav", lambda _: sounds.load(root, settings)), seeds)


def _lists(directory: Path) -> Prepared:
    for name in "ab":
        (directory / f"{name}.png").write_bytes(_pictures()["png"])
    seeds = [
        b"path,label,split,group\na.png,a,train,1\nb.png,b,train,2\nb.png,b,test,3\n",
        b"path;label\na.png;a\nb.png;b\n",
    ]
    return Prepared(file_parse(directory / "l.csv", lambda path: listed.load(path, ImageFolderSettings())), seeds)


DATA = (
    Target("series", (DataError,), _series),
    Target("recordings", (DataError,), _recordings),
    Target("lists", (DataError,), _lists),
    Target("arrays", (DataError,), _arrays),
    Target("images", (DataError,), _images),
    Target("kept-images", (DataError,), _kept_images),
    Target("idx", (DataError,), _idx),
    Target("tables", (DataError,), _tables),
)
