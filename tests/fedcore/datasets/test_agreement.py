from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tinyfleet.fedcore.datasets.adapted import adapted
from tinyfleet.fedcore.datasets.agreement import brief, disagreements, label_map
from tinyfleet.fedcore.datasets.dataset import Dataset, Meaning, Normalization
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription, SkippedFiles

IMAGES = DataDescription(
    shape=(3, 8, 8),
    dtype="uint8",
    classes=("blue", "green", "red"),
    range=(0.0, 255.0),
    seen=(3.0, 250.0),
    samples=(5, 5, 5),
)
SERIES = DataDescription(
    shape=(2, 64), dtype="float32", layout="CL", classes=("rest", "walk"), seen=(-9.0, 11.0), rate=50.0
)


def changed(of, **fields):
    return msgspec.structs.replace(of, **fields)


def only(own, wanted):
    (found,) = disagreements(own, wanted)
    return found


@pytest.mark.parametrize(
    "own",
    [
        IMAGES,
        changed(IMAGES, classes=("green", "red"), samples=(4, 4)),
        changed(IMAGES, classes=("red", "green", "blue")),
        changed(IMAGES, classes=("blue", "pink"), samples=(2, 0)),
        changed(IMAGES, dtype="uint16", range=(0.0, 65535.0), seen=(9.0, 65000.0)),
        changed(IMAGES, dtype="float32", range=(0.0, 1.0), seen=(0.0, 1.0)),
        changed(IMAGES, skipped={}, unlabelled=9),
    ],
    ids=["equal", "classes missing", "another order", "an empty class", "16 bits", "fractions", "unlabelled"],
)
def test_nothing_to_say(own):
    assert disagreements(own, IMAGES) == []


def test_an_unknown_class_is_shown_with_both_lists():
    found = only(changed(IMAGES, classes=("green", "pink", "red")), IMAGES)
    assert (found.what, found.own, found.wanted) == ("classes", "green, pink, red", "blue, green, red")
    assert "pink" in found.remedy
    assert "data.classes" in found.remedy
    assert "write 'green' for 'Green'" in only(changed(IMAGES, classes=("blue", "Green", "red")), IMAGES).remedy
    numbered = changed(IMAGES, classes=("0", "1", "2"))
    assert "'classes' in the file" in only(numbered, IMAGES).remedy


def test_many_classes_are_not_all_shown():
    many = changed(IMAGES, classes=tuple(f"c{n}" for n in range(100)), samples=())
    assert only(many, IMAGES).own.endswith("c11 and 88 more")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 8, 3), "channels last"),
        ((1, 8, 8), "give 3 channels"),
        ((3, 9, 8), r"bring all samples to (3, 8, 8)"),
        ((3, 64), "3 axes"),
    ],
)
def test_another_shape(shape, words):
    found = only(changed(IMAGES, shape=shape), IMAGES)
    assert found.what == "shape"
    assert found.wanted == "(3, 8, 8)"
    assert words in found.remedy


def test_a_missing_channel_axis():
    grey = changed(IMAGES, shape=(1, 8, 8))
    assert "x[:, None]" in only(changed(IMAGES, shape=(8, 8)), grey).remedy


def test_another_layout_of_one_shape():
    spectrograms = changed(IMAGES, layout="CFT")
    assert only(spectrograms, IMAGES).what == "layout"


def test_fractions_that_do_not_say_so_are_not_pixels():
    found = only(changed(IMAGES, dtype="float32", range=None, seen=(0.0, 1.0)), IMAGES)
    assert found.what == "value range"
    assert found.own == "no scale said (float32, 0 to 1 met)"
    assert found.wanted == "0 to 255 (uint8)"
    assert "range" in found.remedy


def test_measured_values_far_apart():
    assert disagreements(changed(SERIES, seen=(-0.5, 0.5)), SERIES) == []
    found = only(changed(SERIES, seen=(-9000.0, 100.0)), SERIES)
    assert found.what == "value range"
    in_grams = changed(SERIES, units="g")
    assert disagreements(changed(in_grams, seen=(-9000.0, 100.0)), in_grams) == []
    assert only(changed(SERIES, units="mg"), in_grams).what == "units"
    assert disagreements(changed(SERIES, seen=None), SERIES) == []


@pytest.mark.parametrize(
    ("field", "own", "wanted", "what"),
    [
        ("rate", 100.0, 50.0, "rate"),
        ("channels", ("x", "z"), ("x", "y"), "channels"),
        ("front_end", {"mels": 40}, {"mels": 64}, "front end"),
        ("front_end", {}, {"mels": 64}, "front end"),
    ],
)
def test_what_else_may_differ(field, own, wanted, what):
    found = only(changed(SERIES, **{field: own}), changed(SERIES, **{field: wanted}))
    assert found.what == what
    assert str(found).startswith(f"{what}: here ")


def test_what_one_side_does_not_say_is_no_disagreement():
    assert disagreements(changed(SERIES, rate=0.0), changed(SERIES, units="g", channels=("x", "y"))) == []
    assert disagreements(changed(SERIES, rate=50.3), SERIES) == []
    assert disagreements(SERIES, changed(SERIES, classes=())) == []


def test_in_a_line():
    shown = brief(changed(IMAGES, skipped={"hidden": SkippedFiles(3, "a")}))
    assert shown == "15 samples of 3 classes: blue 5, green 5, red 5; (3, 8, 8), 0 to 255 (uint8); 3 left out"


def test_labels_by_name():
    assert label_map(("green", "red"), ("blue", "green", "red")) == (1, 2)
    assert label_map(("red", "pink"), ("blue", "red"), (3, 0)) == (1, -1)
    with pytest.raises(DataError, match=r"pink.*blue, red"):
        label_map(("red", "pink"), ("blue", "red"), (3, 1))


def test_adapted_labels_are_those_of_the_run():
    own = Dataset(np.zeros((3, 3, 8, 8), np.uint8), np.array([0, 1, 1]), 2, Meaning(classes=("red", "green")))
    done = adapted(own, IMAGES)
    assert list(done.y) == [2, 1, 1]
    assert done.y.dtype == np.int64
    assert done.classes == 3
    assert done.description.classes == IMAGES.classes
    assert done.x is own.x
    same = Dataset(own.x, own.y, 3, Meaning(classes=IMAGES.classes))
    assert adapted(same, IMAGES) is same
    with pytest.raises(DataError, match="shape: here"):
        adapted(Dataset(own.x[:, :1], own.y, 3, same.meaning), IMAGES)


@pytest.mark.parametrize(
    ("dtype", "scale", "low"),
    [("uint16", 65535.0, 0.0), ("float32", 1.0, 0.0), ("float32", 2.0, -1.0)],
    ids=["16 bits", "fractions", "from -1 to 1"],
)
def test_adapted_values_train_as_the_run_s_own_would(dtype, scale, low):
    shares = np.array([0.0, 0.2, 1.0]).reshape(3, 1, 1, 1)
    wanted = Dataset((shares * 255).astype(np.uint8), np.array([0, 1, 1]), 2)
    meaning = Meaning(range=(low, low + scale)) if dtype == "float32" else Meaning()
    own = Dataset((shares * scale + low).astype(dtype), wanted.y, 2, meaning)
    done = adapted(own, wanted.description)
    assert done.x.ravel() == pytest.approx([0.0, 51.0, 255.0], abs=1e-4)
    normalization = Normalization.of(wanted)
    assert normalization(done.x) == pytest.approx(normalization(wanted.x), abs=1e-5)


def test_adapted_channels_come_in_the_run_s_order():
    x = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    own = Dataset(x, np.array([0, 1]), 2, Meaning(channels=("z", "x")))
    wanted = Dataset(x, own.y, 2, Meaning(channels=("x", "z"))).description
    assert adapted(own, wanted).x[0, :, 0].tolist() == [1.0, 0.0]
