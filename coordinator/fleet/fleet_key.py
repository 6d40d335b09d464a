"""The fleet's own key pair: whoever holds it commands the boards. Made with the state directory, and kept in it."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import msgspec

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.files import check_private, read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.signed.signatures import SEED_BYTES, SigningKey, key_text

FILE_NAME = "fleet.key"


class FleetKeyFile(msgspec.Struct, frozen=True):
    """The file, mode 0600: seed and raw public key, both in base64."""

    seed: str
    public_key: str


def obtain(directory: Path, *, enrolled: bool) -> SigningKey:
    """The key kept in ``directory``, made first where there is none and no device is ``enrolled``.

    Raises ``StoreError`` where one is missing that boards are pinned to, ``ConfigError`` as ``read`` does.
    """
    path = directory / FILE_NAME
    if not path.exists():
        if enrolled:
            raise StoreError(
                f"{path} is missing, and there are devices that obey its owner alone: restore it from a backup, or "
                "start with --new-fleet, and let every board go with `edge-agent release-fleet`"
            )
        key = os.urandom(SEED_BYTES)
        file = FleetKeyFile(base64.b64encode(key).decode(), key_text(SigningKey(key).public))
        try:
            write_atomic(path, msgspec.json.encode(file), mode=0o600)
        except OSError as error:
            raise StoreError(f"{path}: {error}; choose a directory that can be written") from None
    return read(path)


def read(path: Path) -> SigningKey:
    """The key in a file. Raises ``ConfigError`` where others may read it, or where it is damaged."""
    check_private(path)
    try:
        file = read_document(read_file(path), FleetKeyFile)
        seed = base64.b64decode(file.seed, validate=True)
    except (OSError, CodecError, ValueError) as error:
        raise ConfigError(f"{path}: unreadable ({error}); restore it from a backup") from None
    if len(seed) != SEED_BYTES or key_text(SigningKey(seed).public) != file.public_key:
        raise ConfigError(f"{path}: its two keys do not belong together; restore it from a backup")
    return SigningKey(seed)
