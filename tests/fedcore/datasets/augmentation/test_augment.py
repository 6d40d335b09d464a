"""Augmentation by hand: each draw is known, each change is what its name says, and no setting changes no bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.datasets.augmentation import images, series
from tinyfleet.fedcore.datasets.augmentation.augment import IMAGES_ALONE, augmented, check_augmentation
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import AugmentSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import simulate

IMAGES = np.arange(1, 1 + 5 * 2 * 4 * 6, dtype=np.float32).reshape(5, 2, 4, 6)
SERIES = np.arange(1, 1 + 5 * 3 * 8, dtype=np.float32).reshape(5, 3, 8)


def drawn(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_crop_is_a_window_of_the_padded_image():
    found = images.crop(IMAGES, 2, drawn())
    for index, (top, left) in enumerate(drawn().integers(0, 5, (5, 2))):
        for row in range(4):
            for column in range(6):
                r, c = row + top - 2, column + left - 2
                inside = 0 <= r < 4 and 0 <= c < 6
                expected = IMAGES[index, :, r, c] if inside else 0.0
                np.testing.assert_array_equal(found[index, :, row, column], expected)


def test_a_flip_is_of_the_chosen_alone():
    chosen = drawn().random(5) < 0.5
    assert 0 < chosen.sum() < 5
    found = images.flip(IMAGES, 0.5, drawn())
    for index, mirrored in enumerate(chosen):
        np.testing.assert_array_equal(found[index], IMAGES[index, :, :, ::-1] if mirrored else IMAGES[index])
    np.testing.assert_array_equal(images.flip(IMAGES, 1.0, drawn()), IMAGES[:, :, :, ::-1])


def test_a_cutout_is_a_square_around_its_centre_cut_at_the_edges():
    found = images.cutout(IMAGES, 3, drawn())
    for index, (row, column) in enumerate(drawn().integers(0, (4, 6), (5, 2))):
        for r in range(4):
            for c in range(6):
                hidden = abs(r - row) <= 1 and abs(c - column) <= 1
                np.testing.assert_array_equal(found[index, :, r, c], 0.0 if hidden else IMAGES[index, :, r, c])


def test_colour_is_a_line_a_channel():
    rng = drawn()
    a, b = (0.1 * rng.standard_normal((5, 2, 1, 1), np.float32) for _ in range(2))
    np.testing.assert_allclose(images.colour(IMAGES, 0.1, drawn()), IMAGES * (1 + a) + b, rtol=1e-6)


def test_jitter_and_scale_have_their_deviation():
    noise = series.jitter(np.zeros((200, 3, 8), np.float32), 0.5, drawn())
    assert noise.std() == pytest.approx(0.5, rel=0.05)
    factors = series.scale(np.ones((2000, 3, 8), np.float32), 0.2, drawn())
    assert (factors == factors[:, :, :1]).all()
    assert (factors.mean(), factors[:, :, 0].std()) == pytest.approx((1.0, 0.2), rel=0.05)


def test_a_shift_moves_time_and_brings_in_zeros():
    found = series.shift(SERIES, 3, drawn())
    steps = drawn().integers(-3, 4, 5)
    assert {*np.sign(steps)} >= {-1, 1}
    for index, by in enumerate(steps):
        for t in range(8):
            expected = SERIES[index, :, t - by] if 0 <= t - by < 8 else 0.0
            np.testing.assert_array_equal(found[index, :, t], expected)


@pytest.mark.parametrize(("x", "axis"), [(SERIES, 2), (SERIES, 1), (IMAGES, 3), (IMAGES, 2)])
def test_a_mask_hides_neighbours_along_its_axis(x, axis):
    hidden = np.moveaxis(series.mask(x, axis, 2, drawn()) == 0.0, axis, 1).reshape(5, x.shape[axis], -1)
    assert (hidden.all(2) == hidden.any(2)).all()  # whole slices or nothing: x has no zero of its own
    widths = hidden.all(2).sum(1)
    np.testing.assert_array_equal(widths.max(), 2)
    for row in hidden.all(2):
        assert np.count_nonzero(np.diff(row.astype(int)) == 1) + row[0] <= 1  # side by side


def test_no_setting_changes_and_draws_nothing():
    rng = drawn()
    assert augmented(AugmentSettings(), IMAGES, rng) is IMAGES
    assert rng.random() == drawn().random()


def test_settings_that_cannot_be_are_refused_by_name():
    for name in IMAGES_ALONE:
        with pytest.raises(ConfigError, match=f"augment.{name} is for images"):
            check_augmentation(AugmentSettings(**{name: 1}), (3, 8))
    for name, shape in (
        ("time_mask", (1, 4, 6)),
        ("shift", (3, 8)),
        ("frequency_mask", (3, 8)),
        ("crop", (1, 4, 6)),
    ):
        with pytest.raises(ConfigError, match=f"augment.{name} 9 leaves nothing"):
            check_augmentation(AugmentSettings(**{name: 9}), shape)
    check_augmentation(AugmentSettings(crop=2, flip=0.5, time_mask=6, frequency_mask=4), (1, 4, 6))


@pytest.mark.slow
def test_a_run_repeats_its_draws_and_differs_from_one_without():
    spec = demo_spec("static", 1, 0.2, data="digits", limit=120)
    changed = msgspec.structs.replace(
        spec, training=msgspec.structs.replace(spec.training, augment=AugmentSettings(crop=1, cutout=2, jitter=0.1))
    )
    first, second, plain = (encode(simulate(one, create()), precision="fp32") for one in (changed, changed, spec))
    assert first == second != plain
