"""Who this device is: an Ed25519 key pair made at first start and kept in the state directory.

The key is made by a short child process (``python -m tinyfleet.edge_agent.identity FILE``): the cryptography
library costs 10 MB that the supervisor would hold for ever.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tinyfleet.edge_agent.errors import StateError
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import drop_temporaries, write_atomic

FILE_NAME = "identity.json"
_DEFAULT_PREFIX = "agent"
ATTEMPTS = 3  # to make the key


class IdentityFile(msgspec.Struct, frozen=True):
    """The file: raw public key and PKCS #8 private key. Readable by its owner alone (mode 0600)."""

    public_key: str  # base64 of 32 bytes
    private_key: str  # PEM


@dataclass(frozen=True, slots=True)
class Identity:
    """``device`` is the topic name; ``public_key`` is base64; ``fingerprint`` is 64 hex digits of its SHA-256."""

    device: str
    public_key: str
    fingerprint: str

    @property
    def client_id(self) -> str:
        """MQTT client id: two boards that were given one name do not throw each other off the broker."""
        return f"{self.device[:50]}-{self.fingerprint[:8]}"


def obtain(state: Path, name: str = "") -> Identity:
    """The identity kept in ``state``, made first where there is none. Raises ``ConfigError``."""
    path = state / FILE_NAME
    if not path.exists():
        _have_made(path)
    return read(path, name)


def _have_made(path: Path) -> None:
    """Let a child make the key; one that a signal ends, for lack of memory, say, is started again."""
    for _ in range(ATTEMPTS):
        result = subprocess.run(
            [sys.executable, "-m", "tinyfleet.edge_agent.identity", str(path)],
            capture_output=True,
            check=False,
            text=True,
            start_new_session=True,  # a Ctrl-C in a terminal is the agent's to handle
        )
        if result.returncode >= 0:
            break
    drop_temporaries(path.parent)  # of those that were ended, half a key in them
    if result.returncode < 0:
        name = signal.Signals(-result.returncode).name
        raise StateError(
            f"{path}: the process that makes the device key was ended by {name}; start the agent again"
        )
    if result.returncode:
        raise ConfigError(f"{path}: the device key could not be made: {result.stderr.strip()[-300:]}")


def read(path: Path, name: str = "") -> Identity:
    """The identity in ``path``; the device is called ``name``, or after its key. Raises ``ConfigError``."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=IdentityFile)
        raw = base64.b64decode(file.public_key, validate=True)
    except (OSError, msgspec.MsgspecError, binascii.Error) as error:
        raise ConfigError(
            f"{path}: unreadable identity ({error}); restore it, or remove it for a new one"
        ) from None
    if len(raw) != 32:
        raise ConfigError(f"{path}: a public key of {len(raw)} bytes, expected 32; restore the file, or remove it")
    fingerprint = hashlib.sha256(raw).hexdigest()
    return Identity(name or f"{_DEFAULT_PREFIX}-{fingerprint[:12]}", file.public_key, fingerprint)


def make(path: Path) -> None:
    """Make a key pair and write it. Imports cryptography: run it in a process of its own."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = IdentityFile(base64.b64encode(public).decode(), private.decode())
    write_atomic(path, msgspec.json.encode(file), mode=0o600)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
