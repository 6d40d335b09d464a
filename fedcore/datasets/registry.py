"""Data sets by the word that names them: ``mnist5k``, ``image-folder:PATH``, and readers of other distributions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.datasets.reader import Reader
from tinyfleet.fedcore.datasets.readers import arrays, builtin, fashion_mnist, image_folder
from tinyfleet.fedcore.errors import DataError, Unavailable
from tinyfleet.fedcore.lookup import lookup


@dataclass(frozen=True, slots=True)
class Source:
    """A data set: its training part, its own test part where it has one, and where it is from."""

    train: Dataset
    test: Dataset | None
    note: str


READERS: dict[str, Reader] = {
    "mnist5k": Reader(builtin.mnist5k),
    "digits": Reader(builtin.digits),
    "fashion-mnist": Reader(fashion_mnist.load),
    "image-folder": Reader(image_folder.load, takes_path=True),
    "arrays": Reader(arrays.load, takes_path=True),
}


def _reader(name: str, given: object) -> Reader:
    if not isinstance(given, Reader):
        raise TypeError(f"it is {given!r}; give a Reader")
    return given


DOOR = Door("tinyfleet.datasets", READERS.keys, _reader)


def names() -> tuple[str, ...]:
    """What ``load`` takes, for help texts."""
    readers = READERS | DOOR.load_all()
    return tuple(f"{word}:PATH" if reader.takes_path else word for word, reader in readers.items())


def load(source: str) -> Source:
    """Load a whole data set. Raises ``DataError`` where it is unknown, missing or malformed."""
    word, colon, path = source.partition(":")
    try:
        reader = lookup("data source", word, READERS, DOOR)
    except Unavailable as error:
        raise DataError(str(error)) from None
    if not reader.takes_path:
        if colon:
            raise DataError(f"data source {source!r}: {word} takes no path; write {word!r}")
        return Source(*reader.read())
    if not path:
        raise DataError(f"data source {source!r} names no path; write '{word}:PATH'")
    return Source(*reader.read(Path(path).expanduser()))
