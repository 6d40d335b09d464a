"""What a run's settings do to a batch, in a fixed order."""

from __future__ import annotations

import numpy as np

from tinyfleet.fedcore.arrays import FloatArray
from tinyfleet.fedcore.datasets.augmentation import images, series
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import AugmentSettings

IMAGES_ALONE = ("crop", "flip", "cutout", "colour")


def check_augmentation(settings: AugmentSettings, input_shape: tuple[int, ...]) -> None:
    """Raise ``ConfigError`` where an input of that shape (channels first) cannot be changed so."""
    if len(input_shape) != 3 and (named := [name for name in IMAGES_ALONE if getattr(settings, name)]):
        raise ConfigError(
            f"training.augment.{named[0]} is for images; the model's input is {input_shape}, a series: use jitter, "
            "scale, shift, time_mask or frequency_mask"
        )
    longest = {
        "shift": input_shape[-1] - 1,
        "time_mask": input_shape[-1],
        "frequency_mask": input_shape[-2],
        "cutout": min(input_shape[1:]),
        "crop": min(input_shape[1:]),
    }
    for name, most in longest.items():
        if (value := getattr(settings, name)) > most:
            raise ConfigError(
                f"training.augment.{name} {value} leaves nothing of an input of {input_shape}; take {most} at most"
            )


def augmented(settings: AugmentSettings, x: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A normalised batch as the settings change it: ``x`` itself, with nothing drawn, where they change nothing."""
    if settings.crop:
        x = images.crop(x, settings.crop, rng)
    if settings.flip:
        x = images.flip(x, settings.flip, rng)
    if settings.colour:
        x = images.colour(x, settings.colour, rng)
    if settings.shift:
        x = series.shift(x, settings.shift, rng)
    if settings.scale:
        x = series.scale(x, settings.scale, rng)
    if settings.jitter:
        x = series.jitter(x, settings.jitter, rng)
    # What hides comes last: nothing shows through it.
    if settings.cutout:
        x = images.cutout(x, settings.cutout, rng)
    if settings.time_mask:
        x = series.mask(x, x.ndim - 1, settings.time_mask, rng)
    if settings.frequency_mask:
        x = series.mask(x, x.ndim - 2, settings.frequency_mask, rng)
    return np.ascontiguousarray(x)
