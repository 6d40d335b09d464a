"""The secret that noise is made of, and the random bits that come of it.

Noise is a function of the key and of what is noised. So a step that is computed again, after a crash or for a
repeated offer, releases the same bits; and where something else is to be released, its noise is independent:
never can two releases be subtracted to leave the difference without noise.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import make_private, read_file, write_atomic

KEY_BYTES = 32


def kept_key(path: Path) -> bytes:
    """The key in the file ``path``, for its owner alone; made of the system's randomness where it is missing.

    Raises ``ConfigError`` for a file that holds no key: noise of another would differ from what was released.
    """
    try:
        key = read_file(path)
    except FileNotFoundError:
        key = secrets.token_bytes(KEY_BYTES)
        make_private(path.parent)
        write_atomic(path, key, mode=0o600)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; restore the noise key from a backup") from None
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: {len(key)} bytes are no noise key of {KEY_BYTES}; restore it from a backup")
    return key


def simulated_key(seed: int, owner: str) -> bytes:
    """A key that anybody can compute from the run's seed: simulations repeat, and are not private."""
    return hashlib.sha256(f"simulated noise key/{seed}/{owner}".encode()).digest()


class NoiseStream:
    """Uniform random words from a key and a context: SHAKE-256 as the pseudo-random function.

    The same key and context give the same words on every machine.
    """

    def __init__(self, key: bytes, context: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a noise key has {KEY_BYTES} bytes, not {len(key)}")
        self._seed = hashlib.shake_256(key + context).digest(64)
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many times words were drawn."""
        return self._calls

    def words(self, count: int) -> AnyArray:
        """``count`` uniform uint64."""
        self._calls += 1
        data = hashlib.shake_256(self._seed + b"words" + self._calls.to_bytes(8, "little")).digest(8 * count)
        return np.frombuffer(data, "<u8")

    def more_bits(self, call: int, index: int, count: int) -> int:
        """``count`` bits that follow word ``index`` of the ``call``-th draw; fewer are a prefix of more."""
        label = b"more" + call.to_bytes(8, "little") + index.to_bytes(8, "little")
        data = hashlib.shake_256(self._seed + label).digest(-(-count // 8))
        return int.from_bytes(data, "big") >> (-count % 8)
