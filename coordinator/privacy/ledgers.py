"""What private runs have released, and the secrets of their noise: two files a run below ``privacy/``.

The key never leaves this directory: it is in no message, in no log and not in the database. Without it nobody can
take the noise off; who reads it can. The ledger is what was spent, each release before it is announced.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tinyfleet.coordinator.errors import StoreError
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.files import read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.privacy.noise_key import kept_key
from tinyfleet.fedcore.run_spec import PrivacySettings

log = logging.getLogger(__name__)


class Release(msgspec.Struct, frozen=True):
    """One state that devices' data went into."""

    step: Annotated[int, Meta(ge=0)]
    sha256: str
    epsilon: float  # of the run once it is out


class Ledger(msgspec.Struct, frozen=True):
    """All releases of a run, in their order, and the terms that epsilon was counted on."""

    privacy: PrivacySettings
    releases: tuple[Release, ...] = ()

    @property
    def epsilon(self) -> float:
        """Spent so far, at ``privacy.delta``."""
        return self.releases[-1].epsilon if self.releases else 0.0

    def __str__(self) -> str:
        privacy = self.privacy
        budget = f" of {privacy.epsilon:g}" if privacy.epsilon else ""
        return f"{privacy.mode}, epsilon {self.epsilon:.3g}{budget} spent at delta {privacy.delta:g}"

    def has(self, sha256: str) -> bool:
        """Whether this very state is in it: computed again, it tells nothing new."""
        return any(release.sha256 == sha256 for release in self.releases)

    def of_step(self, step: int) -> float | None:
        """Spent once the step was over; None where it has released nothing."""
        spent = [release.epsilon for release in self.releases if release.step == step]
        return spent[-1] if spent else None


class Ledgers:
    """The files of one state directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, run: str) -> Ledger | None:
        """A run's ledger, or None before its first release. Raises ``ConfigError`` where it is damaged."""
        path = self._path(run, "json")
        try:
            return read_document(read_file(path), Ledger)
        except FileNotFoundError:
            return None
        except (OSError, CodecError) as error:
            raise ConfigError(
                f"{path}: {error}; what the run has spent is not known: restore it from a backup"
            ) from None

    def legible(self, run: str) -> Ledger | None:
        """The same to be shown: a damaged one is left out, with a warning."""
        try:
            return self.get(run)
        except ConfigError as error:
            log.warning("%s", error)
            return None

    # -- the service --------------------------------------------------------------------

    def key(self, run: str) -> bytes:
        """The secret of the run's noise, made at its first use.

        Raises ``StoreError`` where it cannot be kept, ``ConfigError`` where it is damaged.
        """
        try:
            return kept_key(self._path(run, "key"))
        except OSError as error:
            raise StoreError(f"{self._directory}: {error}; the key of the run's noise cannot be kept") from error

    def put(self, run: str, ledger: Ledger) -> None:
        """Keep the run's ledger: on disk when this returns. Raises ``StoreError`` where it cannot be."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_atomic(self._path(run, "json"), msgspec.json.encode(ledger), mode=0o600)
        except OSError as error:
            raise StoreError(f"{self._directory}: {error}; is the disk full or read-only?") from error

    def _path(self, run: str, kind: str) -> Path:
        return self._directory / f"{run}.{kind}"
