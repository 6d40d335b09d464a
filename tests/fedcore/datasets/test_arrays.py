from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.datasets.contract import check_data
from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.run_spec import ModelSettings

X = np.arange(6 * 2 * 3 * 4, dtype=np.uint8).reshape(6, 2, 3, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


def model(shape, classes):
    return ModelSettings(input_shape=shape, classes=classes)


def read(tmp_path, **parts):
    np.savez(tmp_path / "a.npz", **parts)
    return load(f"arrays:{tmp_path / 'a.npz'}")


def test_channels_last_and_no_channel_axis_where_that_is_said(tmp_path):
    last = np.moveaxis(X, 1, -1)
    assert np.array_equal(read(tmp_path, x=last, y=Y, layout="NHWC").train.x, X)
    assert np.array_equal(read(tmp_path, x=X[:, 0], y=Y, layout="NHW").train.x, X[:, :1])
    series = read(tmp_path, x=X[:, 0], y=Y, layout="NLC").train
    assert np.array_equal(series.x, X[:, 0].swapaxes(1, 2))
    assert series.description.layout == "CL"
    assert read(tmp_path, x=X[:, 0, 0], y=Y, layout="NL").train.x.shape == (6, 1, 4)
    with pytest.raises(DataError, match=r"x has shape \(6, 2, 3, 4\), which is not NHW"):
        read(tmp_path, x=X, y=Y, layout="NHW")
    with pytest.raises(DataError, match="layout is 'HWC'"):
        read(tmp_path, x=X, y=Y, layout="HWC")


def test_words_are_labels_where_their_order_is_said(tmp_path):
    words = np.array(["lie", "sit", "walk"])
    data = read(tmp_path, x=X, y=words[Y], classes=["walk", "lie", "sit"]).train
    assert list(data.y) == [1, 2, 0, 1, 2, 0]
    assert data.description.classes == ("walk", "lie", "sit")
    assert list(read(tmp_path, x=X, y=words[Y].astype("S"), classes=words).train.y) == list(Y)
    with pytest.raises(DataError, match=r"labels of y are words \(lie, sit, walk\); give integers from 0"):
        read(tmp_path, x=X, y=words[Y])
    with pytest.raises(DataError, match="a label of y is 'walk', which is not among classes: lie, sit"):
        read(tmp_path, x=X, y=words[Y], classes=["lie", "sit"])


def test_named_labels_may_count_from_one(tmp_path):
    data = read(tmp_path, x=X, y=Y + 1, classes=["a", "b", "c"]).train
    assert list(data.y) == list(Y)
    with pytest.raises(DataError, match="a label of y is 4, and classes has 3 names"):
        read(tmp_path, x=X, y=Y + 2, classes=["a", "b", "c"])
    with pytest.raises(DataError, match="all different"):
        read(tmp_path, x=X, y=Y, classes=["a", "b", "a"])


def test_a_model_of_other_samples_or_fewer_classes_is_refused(tmp_path):
    described = read(tmp_path, x=X, y=Y).train.description
    check_data(described, model((2, 3, 4), 3))
    check_data(described, model((2, 3, 4), 5))
    from_one = read(tmp_path, x=X, y=Y + 1).train.description
    with pytest.raises(DataError, match=r"labels up to 3, .* labels count from 0"):
        check_data(from_one, model((2, 3, 4), 3))
    with pytest.raises(DataError, match=r"set model\.classes = 3"):
        check_data(described, model((2, 3, 4), 2))
    with pytest.raises(DataError, match="channels last"):
        check_data(described, model((4, 2, 3), 3))
    with pytest.raises(DataError, match="one channel is missing"):
        check_data(read(tmp_path, x=X[:, 0], y=Y).train.description, model((1, 3, 4), 3))


def test_a_range_makes_floats_shares_of_full_scale(tmp_path):
    data = read(tmp_path, x=X / 255.0, y=Y, range=[0, 1]).train
    assert data.description.range == (0.0, 1.0)
    assert np.array_equal(data.x, (X / 255.0).astype(np.float32))
    signed = read(tmp_path, x=X / 127.5 - 1, y=Y, range=[-1.0, 1.0]).train
    assert signed.description.range == (0.0, 1.0)
    assert signed.x == pytest.approx(X / 255.0, abs=1e-6)
    with pytest.raises(DataError, match="zero and of full scale"):
        read(tmp_path, x=X, y=Y, range=[1, 0])


def test_units_rate_and_channels_are_told(tmp_path):
    told = read(tmp_path, x=X[:, 0] * 0.5, y=Y, units="g", rate=50, channels=["x", "y", "z"]).train.description
    assert (told.units, told.rate, told.channels, told.range) == ("g", 50.0, ("x", "y", "z"), None)
    with pytest.raises(DataError, match="channels names 2, and a sample has 3"):
        read(tmp_path, x=X[:, 0], y=Y, channels=["x", "y"])
    with pytest.raises(DataError, match="rate is an array of <U4"):
        read(tmp_path, x=X[:, 0], y=Y, rate="fast")


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", ">i4", ">f4", "float16", "float64", "uint16"])
def test_plain_types_are_taken_as_they_are_meant(tmp_path, dtype):
    data = read(tmp_path, x=(X % 2).astype(dtype), y=Y.astype(">u2")[:, None])
    assert data.train.x.dtype == np.float32
    assert np.array_equal(data.train.x, X % 2)
    assert np.array_equal(data.train.y, Y)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"x": X.astype(complex)}, "x: no plain array"),
        ({"x": X.astype("U3")}, "x: no plain array, but one of type <U3; give numbers"),
        ({"y": np.eye(3)[Y]}, r"y has shape \(6, 3\).*argmax"),
        ({"y": Y > 0}, "labels of type bool"),
        ({"y": Y.astype("M8[s]")}, "y: no plain array"),
        ({"y": Y + 5000}, "a label is 5002; labels count from 0, to 4095"),
        ({"x": np.where(X == 77, np.inf, X / 1.0)}, r"a value of x is not finite: inf in sample 3"),
        ({"classes": np.array([{}], dtype=object)}, "classes: no plain array"),
    ],
    ids=["complex", "texts", "one row a label", "truth values", "times", "large", "infinite", "objects"],
)
def test_what_is_refused_names_the_file_and_the_array(tmp_path, parts, words):
    with pytest.raises(DataError, match=rf"a\.npz: .*{words}"):
        read(tmp_path, **({"x": X, "y": Y} | parts))


def test_one_array_is_no_set_of_arrays(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(DataError, match=r"a\.npy: no \.npz file.*savez"):
        load(f"arrays:{tmp_path / 'a.npy'}")
