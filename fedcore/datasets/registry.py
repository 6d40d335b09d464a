"""Data sets by the word that names them: ``mnist5k``, ``image-folder:PATH`` and so on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.device_profiles.suggestions import nearest
from tinyfleet.fedcore.datasets import arrays, builtin, fashion_mnist, image_folder
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its training part, its own test part where it has one, and where it is from."""

    train: Dataset
    test: Dataset | None
    note: str


_PLAIN: dict[str, Callable[[], tuple[Dataset, Dataset | None, str]]] = {
    "mnist5k": builtin.mnist5k,
    "digits": builtin.digits,
    "fashion-mnist": fashion_mnist.load,
}
_WITH_PATH: dict[str, Callable[[Path], tuple[Dataset, Dataset | None, str]]] = {
    "image-folder": image_folder.load,
    "arrays": arrays.load,
}


def names() -> tuple[str, ...]:
    """What ``load`` takes, for help texts."""
    return (*_PLAIN, *(f"{kind}:PATH" for kind in _WITH_PATH))


def load(source: str) -> Source:
    """Load a whole data set. Raises ``DataError`` where it is unknown, missing or malformed."""
    kind, colon, path = source.partition(":")
    if kind in _PLAIN and not colon:
        return Source(*_PLAIN[kind]())
    if kind in _WITH_PATH and path:
        return Source(*_WITH_PATH[kind](Path(path).expanduser()))
    near = nearest(kind, (*_PLAIN, *_WITH_PATH))
    hint = f"; did you mean {near}?" if near else ""
    raise DataError(f"data source {source!r} is not one of {', '.join(names())}{hint}")
