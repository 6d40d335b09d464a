from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def listed(tmp_path):
    for index in range(5):
        Image.fromarray(np.full((2, 2), index * 10, np.uint8)).save(tmp_path / f"{index}.png")

    def read(*lines, settings=""):
        (tmp_path / "l.csv").write_text("\n".join(lines))
        return load(f"list:{tmp_path / 'l.csv'}{settings}")

    return read


def test_a_list_says_labels_and_splits(listed):
    source = listed("path,label,split,group", "0.png,b,train,1", "3.png,a,,1", "1.png,a,test,2", "2.png,b,test,2")
    assert source.train.x[:, 0, 0, 0].tolist() == [0, 30]
    assert list(source.train.y) == [1, 0]
    assert source.test.x[:, 0, 0, 0].tolist() == [10, 20]
    assert list(source.test.y) == [0, 1]
    assert source.train.description.classes == ("a", "b")


def test_labels_may_come_later(listed):
    told = listed("path;label", "0.png;a", "1.png;", "2.png;b", "9.png;b").train.description
    assert told.unlabelled == 1
    assert told.samples == (1, 1)
    assert told.skipped["no such file"].example == "row 5: 9.png"
    assert listed("path;label", "0.png;a", "1.png;b", "2.png;b", settings="?size=1x1").train.x.shape == (3, 1, 1, 1)


def test_what_is_wrong_is_named(listed):
    with pytest.raises(DataError, match="row 3: group 7 is in both splits"):
        listed("path,label,split,group", "0.png,a,train,7", "1.png,b,test,7")
    with pytest.raises(DataError, match="needs path and label"):
        listed("file,label", "0.png,a")
    with pytest.raises(DataError, match="1 classes with images"):
        listed("path,label", "0.png,a", "1.png,a")
