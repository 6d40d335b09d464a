from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.files import kept
from tinyfleet.fedcore.datasets.readers import image_folder, images
from tinyfleet.fedcore.datasets.readers.image_folder import ImageFolderSettings
from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError

Image = pytest.importorskip("PIL.Image")

GREY = np.array([[0, 64, 128], [192, 224, 255]], np.uint8)
COLOURS = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def folder(root, **files):
    """``a__0="..."``: an image or bytes for the file a/0.SUFFIX, by (suffix, content)."""
    for name, (suffix, content) in files.items():
        path = root / name.replace("__", "/")
        path = path.with_name(f"{path.name}{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return root


def read(root, **settings):
    train, _, _ = image_folder.load(root, ImageFolderSettings(**settings), cache=root.parent / "cache")
    return train


def image(array, mode=None):
    made = Image.fromarray(array)
    return made.convert(mode) if mode else made


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".TIFF", ".ppm", ".pnm"])
def test_formats_without_loss(tmp_path, suffix):
    root = folder(tmp_path / "d", a__0=(suffix, image(COLOURS)), b__0=(suffix, image(COLOURS[:, ::-1])))
    assert np.array_equal(read(root).x[0], COLOURS.transpose(2, 0, 1))
    assert np.array_equal(read(root).x[1], COLOURS[:, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".jfif", ".webp"])
def test_formats_with_loss(tmp_path, suffix):
    flat = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    root = folder(tmp_path / "d", a__0=(suffix, image(flat)), b__0=(suffix, image(flat)))
    assert np.abs(read(root).x[0].transpose(1, 2, 0).astype(int) - flat).max() <= 4


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_colour_modes_become_rgb(tmp_path, mode):
    flat = np.full((4, 4, 3), (255, 0, 51), np.uint8)
    root = folder(tmp_path / "d", a__0=(".tif", image(flat, mode)), b__0=(".tif", image(flat)))
    data = read(root)
    assert data.x.shape == (2, 3, 4, 4)
    assert np.array_equal(data.x[0], data.x[1])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_keep_them(tmp_path, suffix):
    deep = np.array([[0, 300, 20000], [45000, 65534, 65535]], np.uint16)
    root = folder(tmp_path / "d", a__0=(suffix, image(deep)), b__0=(suffix, image(deep)))
    data = read(root)
    assert data.x.dtype == np.uint16
    assert np.array_equal(data.x[0, 0], deep)
    assert data.description.range == (0.0, 65535.0)
    assert read(root, size="4x6").x.shape == (2, 1, 4, 6)


def test_floats_are_measured_values(tmp_path):
    heat = GREY.astype(np.float32) / 10 - 3
    root = folder(tmp_path / "d", a__0=(".tif", image(heat)), b__0=(".tif", image(heat)))
    data = read(root)
    assert np.array_equal(data.x[0, 0], heat)
    assert data.description.range is None
    odd = heat.copy()
    odd[0, 0] = np.nan
    folder(root, b__0=(".tif", image(odd)))
    with pytest.raises(DataError, match=r"0\.tif: a value of it is not finite"):
        read(root)


def test_kinds_in_one_folder(tmp_path):
    mixed = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", image(COLOURS)))
    assert np.array_equal(read(mixed).x[0], np.stack([GREY] * 3))
    assert read(mixed, colour="grey").x.shape == (2, 1, 2, 3)
    deep = folder(tmp_path / "e", a__0=(".png", image(GREY)), b__0=(".png", image(GREY.astype(np.uint16))))
    assert np.array_equal(read(deep).x[0, 0], GREY.astype(np.uint16) * 257)
    apart = folder(tmp_path / "f", a__0=(".tif", image(GREY.astype(np.float32))), b__0=(".png", image(COLOURS)))
    with pytest.raises(DataError, match=r"do not go together: float \(.*0\.tif\), rgb \(.*0\.png\)"):
        read(apart)


def test_a_picture_stands_as_it_was_held(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top of the scene is the picture's right side
    root = tmp_path / "d"
    for name in "ab":
        (root / name).mkdir(parents=True)
        image(np.rot90(GREY)).save(root / name / "0.png", exif=exif)
    assert np.array_equal(read(root).x[0, 0], GREY)


def test_folders_within_a_class_hidden_names_and_what_is_not_read(tmp_path):
    picture = (".png", image(GREY))
    root = folder(
        tmp_path / "d",
        **{"a__deep__deeper__0": picture, "a__1": picture, "b__0": picture, "b__.hidden": picture},
        **{"b__notes": (".txt", b"words"), "b__more": (".txt", b"words"), ".git__0": picture, "stray": picture},
        **{"b__.thumbs__0": picture},
    )
    os.mkfifo(root / "b" / "pipe.png")
    data = read(root)
    assert data.description.classes == ("a", "b")
    assert data.description.samples == (2, 1)
    assert {reason: one.count for reason, one in data.meaning.skipped.items()} == {
        "suffix .txt is not read": 2,
        "hidden": 1,
        "no regular file": 1,
        "outside the class folders": 1,
    }
    assert data.meaning.skipped["suffix .txt is not read"].example in {"b/more.txt", "b/notes.txt"}


def test_what_is_left_out_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", image(GREY)), b__1=(".heic", b"x"))
    load(f"image-folder:{root}")
    assert "images of d: 1 left out: suffix .heic is not read (b/1.heic)" in caplog.text


def test_a_class_without_a_file_that_is_read_is_no_class(tmp_path):
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), fox__0=(".heic", b"x"), fox__1=(".heic", b"x"))
    with pytest.raises(DataError, match=r"class fox has no file that is read \(2 x \.heic\)"):
        read(root)
    shutil.rmtree(root / "fox")
    folder(root, b__0=(".png", image(GREY)))
    (root / "empty").mkdir()
    assert read(root).description.samples == (1, 1, 0)


def test_names_in_bytes_that_are_no_text(tmp_path):
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", image(GREY)))
    (root / "a" / "0.png").rename(root / "a" / os.fsdecode(b"stra\xdfe.png"))
    (root / "b").rename(root / os.fsdecode(b"gr\xfcn"))
    data = read(root)
    assert data.description.classes == ("a", "gr\\udcfcn")
    assert np.array_equal(read(root).x, data.x)
    (root / "a" / os.fsdecode(b"k\xe4se.png")).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"k\\udce4se\.png cannot be read as an image") as caught:
        read(root)
    str(caught.value).encode("utf-8")


def test_one_accent_written_in_two_ways_is_one_class(tmp_path):
    decomposed = folder(tmp_path / "d", **{"cafe\u0301__0": (".png", image(GREY)), "tea__0": (".png", image(GREY))})
    assert read(decomposed).description.classes == ("café", "tea")
    folder(decomposed, **{"café__0": (".png", image(GREY))})
    with pytest.raises(DataError, match="two folders are called café"):
        read(decomposed)


def test_too_large_is_known_before_it_is_decoded(tmp_path, monkeypatch):
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__panorama=(".png", Image.new("1", (9000, 9000))))
    monkeypatch.setattr(images, "_pixels", lambda *given: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"panorama\.png: it has \(9000, 9000\) pixels"):
        read(root)


def test_only_formats_of_pictures_are_opened(tmp_path):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\nshowpage\n"
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", script))
    with pytest.raises(DataError, match=r"b/0\.png cannot be read as an image"):
        read(root)


def test_sizes_are_brought_to_one_where_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = folder(tmp_path / "d", a__0=(".png", image(COLOURS)), b__0=(".png", image(np.tile(COLOURS, (2, 2, 1)))))
    with pytest.raises(DataError, match=r"\?size=HEIGHTxWIDTH"):
        load(f"image-folder:{root}")
    assert load(f"image-folder:{root}?size=8x5&colour=grey").train.x.shape == (2, 1, 8, 5)
    with pytest.raises(DataError, match="did you mean `size`"):
        load(f"image-folder:{root}?sise=8x5")
    with pytest.raises(DataError, match="size"):
        load(f"image-folder:{root}?size=8")
    with pytest.raises(DataError, match="takes no settings"):
        load(f"arrays:{tmp_path}/a.npz?size=8x8")


def test_a_link_to_a_folder_above_ends(tmp_path):
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", image(GREY)))
    (root / "a" / "loop").symlink_to(root / "a", target_is_directory=True)
    assert read(root).description.samples == (1, 1)


def ready(tmp_path):
    root = folder(tmp_path / "d", a__0=(".png", image(GREY)), b__0=(".png", image(GREY)))
    first = read(root)
    (one,) = (tmp_path / "cache" / "images").iterdir()
    return root, first, one


@pytest.mark.parametrize("damage", [b"", bytes(300), b"PNG"], ids=["emptied", "zeros", "short"])
def test_a_damaged_cache_is_done_without(tmp_path, damage):
    root, first, one = ready(tmp_path)
    one.write_bytes(damage)
    assert np.array_equal(read(root).x, first.x)
    assert one.read_bytes() != damage, "and it is mended"


def test_another_folder_s_cache_is_not_taken(tmp_path):
    root, _, one = ready(tmp_path)
    whole = one.read_bytes()
    folder(root, b__0=(".png", image(255 - GREY)))
    os.utime(root / "b" / "0.png", (5, 5))
    changed = read(root)
    assert np.array_equal(changed.x[1, 0], 255 - GREY)
    assert [path.name for path in one.parent.iterdir()] == [one.name], "the old one's place is the new one's"
    one.write_bytes(whole)
    assert np.array_equal(read(root).x, changed.x)


def test_a_cache_that_is_full_or_read_only_is_done_without(tmp_path, monkeypatch):
    root, first, one = ready(tmp_path)
    shutil.rmtree(one.parent)
    one.parent.write_text("a file where the folder should be")
    assert np.array_equal(read(root).x, first.x)
    one.parent.unlink()
    monkeypatch.setattr(kept, "free_bytes", lambda directory: 100)
    assert np.array_equal(read(root).x, first.x)
    assert not list(one.parent.iterdir())

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "free_bytes", lambda directory: 1 << 40)
    monkeypatch.setattr(kept, "write_atomic", full)
    assert np.array_equal(read(root).x, first.x)
