"""What a device remembers of a run between its tasks, on disk: methods with personal state keep it here.

Worker side only (numpy). It lies with the run's masks, and goes with them when the run ends.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import drop_temporaries, write_atomic
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode

log = logging.getLogger(__name__)

_NAME = re.compile(r"memory-(\d+)\.bin")


class FileMemory:
    """Files ``memory-STEP.bin``, lossless blobs: the last one written, and the one before it.

    A task that died after it wrote is given again and must see what its first try saw, so reading looks
    only before the task's own step.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self, step: int) -> Payload | None:
        """The newest of an earlier step; a damaged file is passed over with a warning."""
        for earlier in sorted((kept for kept in self._steps() if kept < step), reverse=True):
            path = self._path(earlier)
            try:
                return decode(path.read_bytes())
            except (OSError, CodecError) as error:
                log.warning("%s is passed over: %s", path, error)
        return None

    def write(self, step: int, payload: Payload) -> None:
        """Keep ``payload`` as of ``step`` and the newest earlier one. All else goes: older ones, and later
        ones, which are of steps that the coordinator has taken back.

        Raises ``CodecError`` where a value is not finite, ``OSError`` where the disk refuses.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        drop_temporaries(self._directory)
        write_atomic(self._path(step), encode(payload, precision="fp32"), 0o600)  # it may hold secrets
        previous = max((kept for kept in self._steps() if kept < step), default=step)
        for kept in self._steps():
            if kept not in (step, previous):
                self._path(kept).unlink()

    def _steps(self) -> list[int]:
        names = (_NAME.fullmatch(path.name) for path in self._directory.glob("memory-*.bin"))
        return [int(found[1]) for found in names if found]

    def _path(self, step: int) -> Path:
        return self._directory / f"memory-{step}.bin"
