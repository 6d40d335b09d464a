"""Data sets by the word that names them: ``mnist5k``, ``image-folder:PATH``, and readers of other distributions."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.datasets.files.kept import files_state
from tinyfleet.fedcore.datasets.reader import Reader
from tinyfleet.fedcore.datasets.readers import arrays, builtin, fashion_mnist, image_folder, listed, sounds, tables
from tinyfleet.fedcore.datasets.readers.image_folder import ImageFolderSettings
from tinyfleet.fedcore.errors import ConfigError, DataError, Unavailable
from tinyfleet.fedcore.lookup import lookup
from tinyfleet.fedcore.run_spec import Settings
from tinyfleet.fedcore.settings import convert

log = logging.getLogger(__name__)

_PAIRS = re.compile(r"[a-z_]+=[^&]*(&[a-z_]+=[^&]*)*")


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
    "image-folder": Reader(image_folder.load, takes_path=True, settings=ImageFolderSettings),
    "arrays": Reader(arrays.load, takes_path=True),
    "tables": Reader(tables.load, takes_path=True, settings=tables.TableSettings),
    "sounds": Reader(sounds.load, takes_path=True, settings=sounds.SoundSettings),
    "list": Reader(listed.load, takes_path=True, settings=ImageFolderSettings),
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
    source_path, settings = _settings(reader, word, path)
    parts = reader.read(source_path) if settings is None else reader.read(source_path, settings)
    return _told(Source(*parts))


def state_of(source: str) -> str:
    """What changes when a source's files do: their names, sizes and times; nothing of one that takes no path."""
    word, _, path = source.partition(":")
    try:
        reader = lookup("data source", word, READERS, DOOR)
        return files_state(_settings(reader, word, path)[0]) if reader.takes_path else ""
    except (Unavailable, DataError):
        return ""  # which ``load`` tells in full


def _settings(reader: Reader, word: str, path: str) -> tuple[Path, Settings | None]:
    """A path that has a question mark of its own is a path where what follows is no ``key=value``."""
    before, mark, after = path.rpartition("?")
    given = dict(pair.split("=", 1) for pair in after.split("&")) if mark and _PAIRS.fullmatch(after) else {}
    place = Path(before if given else path).expanduser()
    if reader.settings is None:
        if given:
            raise DataError(f"data source {word} takes no settings; leave out ?{after}")
        return place, None
    try:
        return place, convert(given, reader.settings, f"data source {word}", strict=False)
    except ConfigError as error:
        raise DataError(str(error)) from None


def _told(source: Source) -> Source:
    """Say what was left out: nobody looks for what does not train."""
    for part, data in (("", source.train), ("test part: ", source.test)):
        for reason, one in data.meaning.skipped.items() if data else ():
            log.warning("%s: %s%d left out: %s (%s)", source.note, part, one.count, reason, one.example)
    return source
