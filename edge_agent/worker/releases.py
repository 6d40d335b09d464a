"""What this device has released of a run with local privacy, and the secret of its noise: kept for ever.

Worker side only. A step that is asked for again gets the very same bits; another update for it is refused, since
every further release would cost privacy that nobody has agreed to. It outlives the run's masks: a coordinator
that ends a run and offers it once more learns nothing new.
"""

from __future__ import annotations

import json
from pathlib import Path

from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.privacy.noise import DeviceNoise
from tinyfleet.fedcore.privacy.noise_key import kept_key


class Releases:
    """Files ``noise.key`` and ``steps.json`` in a directory of one run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def noise(self) -> DeviceNoise:
        """The run's noise on this device. Raises ``ConfigError`` where its key is damaged."""
        return DeviceNoise(kept_key(self._directory / "noise.key"), self.release)

    def release(self, step: int, digest: str) -> None:
        """The update with this digest is about to get noise. Raises ``ResultError`` where another one had it."""
        path = self._directory / "steps.json"
        try:
            steps: dict[str, str] = json.loads(path.read_bytes())
        except FileNotFoundError:
            steps = {}
        except ValueError:
            raise ResultError(f"{path} is damaged: what was released is not known, so nothing more is") from None
        if steps.setdefault(str(step), digest) != digest:
            raise ResultError(
                f"another update was released for step {step} of this run; a second one would cost more privacy "
                "than the run says"
            )
        write_atomic(path, json.dumps(steps).encode(), mode=0o600)
