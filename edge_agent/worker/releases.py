"""What this device has released of a run with local privacy, and the secret of its noise: kept for ever.

Worker side only. A step that is asked for again gets the very same bits; another update for it is refused, since
every further release would cost privacy that nobody has agreed to. It outlives the run's masks: a coordinator
that ends a run and offers it once more learns nothing new.
"""

from __future__ import annotations

import json
from pathlib import Path

from tinyfleet.fedcore.errors import CodecError, ResultError
from tinyfleet.fedcore.files import make_private, read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.privacy.noise import DeviceNoise
from tinyfleet.fedcore.privacy.noise_key import kept_key


class Releases:
    """Files ``noise.key`` and ``steps.json`` in a directory of one run."""

    def __init__(self, directory: Path, most: int = 0) -> None:
        self._directory = directory
        self._most = most  # of all runs, whose directories lie beside this one; 0: no limit
        self._steps = directory / "steps.json"

    def noise(self) -> DeviceNoise:
        """The run's noise on this device. Raises ``ConfigError`` where its key is damaged.

        Raises ``ResultError`` where it is gone: with another one, steps that were answered would get other noise.
        """
        make_private(self._directory)
        path = self._directory / "noise.key"
        if self._steps.exists() and not path.exists():
            raise ResultError(f"{path} is gone, with which this run's releases were made; nothing more is released")
        return DeviceNoise(kept_key(path), self.release)

    def release(self, step: int, digest: str) -> None:
        """The update with this digest is about to get noise. Raises ``ResultError`` where another one had it."""
        path = self._steps
        try:
            steps = read_document(read_file(path), dict[str, str])
        except FileNotFoundError:
            steps = {}
        except (OSError, CodecError):
            raise ResultError(f"{path} is damaged: what was released is not known, so nothing more is") from None
        if self._most and str(step) not in steps and self._released() >= self._most:
            raise ResultError(f"this device has released {self._most} updates, which is all that its owner allows")
        if steps.setdefault(str(step), digest) != digest:
            raise ResultError(
                f"another update was released for step {step} of this run; a second one would cost more privacy "
                "than the run says"
            )
        write_atomic(path, json.dumps(steps).encode(), mode=0o600)

    def _released(self) -> int:
        """Of all runs. Raises ``ResultError`` where one cannot be read."""
        try:
            kept = [read_file(path) for path in self._directory.parent.glob("*/steps.json")]
            return sum(len(read_document(one, dict[str, str])) for one in kept)
        except (OSError, CodecError):
            raise ResultError(f"{self._directory.parent} is damaged: how much was released is not known") from None
