from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


LABELLED = ["time,x,y,activity"] + [f"{n},{n},{-n},{'walk' if 4 <= n < 9 else 'sit'}" for n in range(12)]


def test_windows_do_not_cross_a_change_of_label(tmp_path):
    file = write(tmp_path / "s.csv", *LABELLED)
    data = load(f"tables:{file}?window=2&label=activity&rate=50&units=g").train
    told = data.description
    assert told.classes == ("sit", "walk")
    assert (told.channels, told.rate, told.units, told.layout) == (("x", "y"), 50.0, "g", "CL")
    assert data.x.shape == (5, 2, 2)
    assert data.x[:, 0].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [9, 10]]
    assert data.x[2, 1].tolist() == [-4, -5]
    assert list(data.y) == [0, 0, 1, 1, 0]
    assert data.x.dtype == np.float32


def test_windows_overlap_by_their_stride(tmp_path):
    file = write(tmp_path / "s.csv", *LABELLED)
    data = load(f"tables:{file}?window=4&stride=1&label=activity&channels=y").train
    assert data.x[:, 0, 0].tolist() == [0, -4, -5]
    assert data.meaning.skipped["shorter than a window"].count == 1


def test_a_folder_a_class_and_a_test_part(tmp_path):
    for part, offset in (("train", 0), ("test", 100)):
        for name in ("idle", "run"):
            write(tmp_path / "d" / part / name / "1.tsv", "a\tb", *(f"{n + offset}\t1e1" for n in range(6)))
    source = load(f"tables:{tmp_path / 'd'}?window=3")
    assert source.train.x[:, 0].tolist() == [[0, 1, 2], [3, 4, 5]] * 2
    assert list(source.train.y) == [0, 0, 1, 1]
    assert source.test.x[0, :, 0].tolist() == [100, 10]
    assert source.test.description.classes == ("idle", "run")


def test_columns_without_a_head_are_numbered(tmp_path):
    for name in "ab":
        write(tmp_path / "d" / name / "1.csv", *(f"{n};{n + 0.5}" for n in range(4)))
    data = load(f"tables:{tmp_path / 'd'}?window=4").train
    assert data.description.channels == ("1", "2")
    assert data.x[0, 1].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_what_is_missing_is_counted(tmp_path):
    lines = ["x,label", "1,a", "2,a", "oops,a", "4,a", "5,a", "6", "7,", "8,", "9,b", "nan,b", "1,b", "2,b"]
    data = load(f"tables:{write(tmp_path / 's.csv', *lines)}?window=2&label=label").train
    assert data.x[:, 0].tolist() == [[1, 2], [1, 2]]
    assert data.meaning.unlabelled == 1, "rows 6 and 7; row 8 alone is no window"
    assert {key: one.count for key, one in data.meaning.skipped.items()} == {"a value is missing or no number": 2}


@pytest.mark.parametrize(
    ("lines", "settings", "words"),
    [
        (["x,y", "1,2"], "label=z", "no column 'z', but x, y"),
        (["x,y", "1,a"], "label=y&channels=w", "no column 'w'"),
        (["x,x", "1,a"], "label=x", "two of its columns"),
        ([""], "label=x", "it is empty"),
        (["x,y", "1,a"], "label=y&window=4", "give a smaller window"),
        (["x,y", "1,a"], "label=y&window=1", "window"),
        (["x,y", "1,a"], "window=2", r"say with \?label=COLUMN"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, lines, settings, words):
    file = write(tmp_path / "s.csv", *lines)
    with pytest.raises(DataError, match=words):
        load(f"tables:{file}?{settings}")
    with pytest.raises(DataError, match="no such file"):
        load(f"tables:{tmp_path / 'none'}?label=x")
