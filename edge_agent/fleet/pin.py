"""The one fleet that this agent obeys: its public key, kept from the day on which it was first accepted."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.files import read_file, remove, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.signed.signatures import fleet_id, key_bytes, key_text, shown

FILE_NAME = "fleet.json"
RELEASE = "edge-agent release-fleet"


class PinFile(msgspec.Struct, frozen=True):
    """The file: the fleet's raw public key in base64."""

    public_key: str


class FleetPin:
    """``wanted`` is the fleet id that the agent's configuration names; empty: the first fleet that accepts it.

    Raises ``ConfigError`` where the file is damaged, or of another fleet than ``wanted``.
    """

    def __init__(self, path: Path, wanted: str = "") -> None:
        self._path = path
        self._wanted = wanted
        self.key = read(path)
        if self.key is not None and wanted and fleet_id(self.key) != wanted:
            raise ConfigError(
                f"fleet {shown(wanted)} is configured, but this board belongs to {shown(fleet_id(self.key))}; "
                f"correct `fleet`, or let the board go first: {RELEASE}"
            )

    @property
    def fleet(self) -> str:
        """The id of the only fleet that is heard; empty: any may introduce itself."""
        return self._wanted if self.key is None else fleet_id(self.key)

    def admits(self, fleet: str) -> bool:
        """True where messages of that fleet may be looked at."""
        return self.fleet in ("", fleet)

    def keep(self, public: bytes) -> None:
        """Belong to the fleet with that key: on disk before anything is done for it. Raises ``OSError``."""
        if self.key is None and self.admits(fleet_id(public)):
            write_atomic(self._path, msgspec.json.encode(PinFile(key_text(public))), mode=0o600)
            self.key = public


def read(path: Path) -> bytes | None:
    """The key that is pinned; None where there is none. Raises ``ConfigError``."""
    try:
        key = key_bytes(read_document(read_file(path), PinFile).public_key)
    except FileNotFoundError:
        return None
    except (OSError, CodecError) as error:
        raise ConfigError(
            f"{path}: unreadable ({error}); restore it, or let the board go to a fleet anew: {RELEASE}"
        ) from None
    if key is None:
        raise ConfigError(
            f"{path}: no public key in it; restore it, or let the board go to a fleet anew: {RELEASE}"
        )
    return key


def release(path: Path) -> bool:
    """Belong to no fleet; True where there was one. Results that wait are kept."""
    if not os.path.lexists(path):
        return False
    remove(path)
    return True
