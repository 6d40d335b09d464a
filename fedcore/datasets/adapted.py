"""A board's own data as a run numbers and scales it."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.datasets.agreement import disagreements, label_map
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription, is_numbered


def adapted(data: Dataset, wanted: DataDescription) -> Dataset:
    """``data`` with the labels, channel order and full scale of ``wanted``; what is so already keeps its bits.

    Raises ``DataError`` with all that disagrees.
    """
    own = data.description
    if found := disagreements(own, wanted):
        raise DataError("; ".join(map(str, found)))
    x, y, classes, meaning = data.x, data.y, data.classes, data.meaning
    if wanted.classes and own.classes != wanted.classes:
        y = np.array(label_map(own.classes, wanted.classes, own.samples), np.int64)[y]
        classes, meaning = len(wanted.classes), replace(meaning, classes=wanted.classes)
    if own.channels and wanted.channels and own.channels != wanted.channels:
        x = x[:, [own.channels.index(name) for name in wanted.channels]]
        meaning = replace(meaning, channels=wanted.channels)
    if own.range != wanted.range:
        x, meaning = _scaled(x, own, wanted), replace(meaning, range=wanted.range)
    return data if (x is data.x and y is data.y) else Dataset(x, y, classes, meaning)


def named(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    """``data`` whose labels are those of ``classes``; numbered ones take the names in their order.

    Raises ``DataError`` where a class is not among them.
    """
    own = data.description
    if not is_numbered(own.classes):
        return adapted(data, msgspec.structs.replace(own, classes=classes))
    if len(own.classes) > len(classes):
        what = f"labels up to {len(own.classes) - 1}, and data.classes names {len(classes)}"
        raise DataError(f"{what}; name every label, 0 first")
    return Dataset(data.x, data.y, len(classes), replace(data.meaning, classes=classes))


def _scaled(x: AnyArray, own: DataDescription, wanted: DataDescription) -> AnyArray:
    assert own.range is not None  # noqa: S101 - or the two would disagree
    assert wanted.range is not None  # noqa: S101
    scaled = (x.astype(np.float32) - np.float32(own.range[0])) * np.float32(wanted.full_scale / own.full_scale)
    result: AnyArray = scaled + np.float32(wanted.range[0])
    return result
