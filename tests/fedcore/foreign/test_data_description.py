from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Meaning, Normalization
from tinyfleet.fedcore.datasets.registry import load
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import MOST_CLASSES, DataDescription, SkippedFiles, abridged

PLAIN = DataDescription(shape=(1, 8, 8), dtype="uint8")


def test_of_images():
    x = np.array([0, 7, 200, 3], np.uint8).reshape(4, 1, 1, 1)
    skipped = {"not an image": SkippedFiles(2, "red/notes.txt")}
    data = Dataset(x, np.array([1, 1, 0, 1]), 3, Meaning(classes=("blue", "green", "red"), skipped=skipped))
    assert data.description == DataDescription(
        shape=(1, 1, 1),
        dtype="uint8",
        layout="CHW",
        classes=("blue", "green", "red"),
        range=(0.0, 255.0),
        seen=(0.0, 200.0),
        samples=(1, 3, 0),
        skipped=skipped,
    )
    part = data.take(np.array([0, 1])).description
    assert part.samples == (0, 2, 0)
    assert part.classes == ("blue", "green", "red")
    assert part.seen == (0.0, 7.0)


def test_of_a_series_whose_arrays_say_little():
    series = Dataset(np.full((2, 3, 5), -0.5, np.float32), np.array([0, 1]), 2).description
    assert series.layout == "CL"
    assert series.classes == ("0", "1")
    assert series.range is None
    assert series.full_scale == 1.0
    assert series.seen == (-0.5, -0.5)
    assert Dataset(np.zeros((0, 1, 4, 4), np.uint16), np.zeros(0, np.int64), 1).description.seen is None


def test_of_a_device_counts_both_its_parts():
    data = Dataset(np.arange(6, dtype=np.float32).reshape(6, 1, 1), np.array([0, 0, 0, 1, 1, 0]), 2)
    whole = DeviceData("d", data.take(np.arange(1, 6)), data.take(np.array([0]))).description
    assert whole.samples == (4, 2)
    assert whole.seen == (0.0, 5.0)


def test_sources_that_are_shipped_name_their_digits():
    told = load("digits").train.description
    assert told.classes == tuple("0123456789")
    assert (told.shape, told.dtype, told.range, told.seen) == ((1, 8, 8), "uint8", (0.0, 255.0), (0.0, 240.0))
    assert sum(told.samples) == 1797


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255.0), ("uint16", 65535.0), ("float32", 1.0)])
def test_the_scale_of_training_is_the_full_scale(dtype, scale):
    data = Dataset(np.array([0, 255], dtype).reshape(2, 1, 1, 1), np.array([0, 1]), 2)
    assert Normalization.of(data).scale == scale == data.description.full_scale
    said = Dataset(np.array([0, 1], np.float32).reshape(2, 1, 1, 1), np.array([0, 1]), 2, Meaning(range=(0.0, 4.0)))
    assert Normalization.of(said).scale == 4.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ["a", "a"]},
        {"classes": ["a", "b"], "samples": [1]},
        {"classes": [""]},
        {"classes": ["x" * 101]},
        {"classes": [str(n) for n in range(MOST_CLASSES + 1)]},
        {"classes": [f"{n:099}" for n in range(400)]},
        {"range": [1.0, 1.0]},
        {"range": [0.0, 1e39]},
        {"seen": [2.0, 1.0]},
        {"rate": -1.0},
        {"shape": []},
        {"shape": [0, 8, 8]},
        {"shape": [1, 1, 1, 1, 1]},
        {"dtype": "object"},
        {"layout": "HWC"},
        {"skipped": {str(n): {"count": 1} for n in range(33)}},
        {"samples": [-1], "classes": ["a"]},
        {"unknown": 1},
    ],
    ids=",".join,
)
def test_what_comes_from_outside_is_bounded(wrong):
    document = msgspec.json.encode({"shape": [1, 8, 8], "dtype": "uint8"} | wrong)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(document, type=DataDescription)


def test_as_much_as_fits_into_a_message():
    assert abridged(PLAIN) is not None
    reasons = {f"{n:064}": SkippedFiles(1 << 40, "f" * 200) for n in range(32)}
    some = msgspec.structs.replace(PLAIN, classes=("a",), samples=(1,), skipped=reasons)
    assert abridged(some) == some
    names = tuple(f"{n:05}" for n in range(MOST_CLASSES))
    many = msgspec.structs.replace(PLAIN, classes=names, samples=(9,) * MOST_CLASSES, skipped=reasons)
    assert abridged(many) == msgspec.structs.replace(many, skipped={})
    most = msgspec.structs.replace(many, samples=(99_999,) * MOST_CLASSES)
    brief = abridged(most)
    assert brief == msgspec.structs.replace(most, skipped={}, samples=())
    assert msgspec.json.decode(msgspec.json.encode(brief), type=DataDescription) == brief


def test_more_classes_than_may_be_said():
    with pytest.raises(DataError, match=f"length <= {MOST_CLASSES}"):
        _ = Dataset(np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.int64), MOST_CLASSES + 1).description


def test_a_supervisor_says_it_without_numpy():
    code = "import sys; import tinyfleet.fedcore.datasets.agreement; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
