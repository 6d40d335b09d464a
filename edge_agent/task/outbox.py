"""Finished results on disk, until the coordinator says that it has them.

A result is two files: the blob, durable first, then its description; the description's rename is
the moment from which the result exists. So a kill at any point leaves a whole result or none.
Keys are (run, step): adding one again replaces it, dropping one twice is nothing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import drop_temporaries, read_file, remove, sync_directory, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.chunks import manifest_of
from tinyfleet.fedcore.protocol.messages import ResultOffer

logger = logging.getLogger(__name__)

# Boards without a clock battery wake up in the past: times before this say nothing about age.
_CLOCK_VALID_FROM = 1_704_067_200.0  # 2024-01-01
_BLOB = re.compile(r"[0-9a-f]{16}-[0-9]{1,12}-[0-9a-f]{16}\.blob")
# A clock that is set forward makes results old at once: none goes for its age that this agent has not held so long.
_HELD_S = 86_400.0


class OutboxEntry(msgspec.Struct, frozen=True):
    """One result's description. ``created`` is wall time in seconds, used for nothing but its age."""

    offer: ResultOffer
    blob: str
    created: float
    sequence: int


class Outbox:
    """Bounded by bytes and age: when it is over, the oldest results are dropped, never the newest."""

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        max_age_s: float,
        wall_clock: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._wall_clock, self._clock = wall_clock, clock
        self._entries: dict[tuple[str, int], OutboxEntry] = {}
        self._held_since: dict[tuple[str, int], float] = {}  # by this process
        directory.mkdir(parents=True, exist_ok=True)
        self._load()

    def add(self, offer: ResultOffer, blob: Path) -> None:
        """Take over the file ``blob`` (same file system), which ``offer.manifest`` describes."""
        key = (offer.run, offer.step)
        before = self._entries.get(key)
        stem = _stem(*key)
        name = f"{stem}-{offer.manifest.sha256[:16]}.blob"
        _sync_file(blob)
        blob.replace(self._directory / name)
        sync_directory(self._directory)
        sequence = 1 + max((entry.sequence for entry in self._entries.values()), default=0)
        entry = OutboxEntry(offer, name, self._wall_clock(), sequence)
        write_atomic(self._directory / f"{stem}.json", msgspec.json.encode(entry))
        self._entries[key], self._held_since[key] = entry, self._clock()
        if before is not None and before.blob != name:
            remove(self._directory / before.blob)
        self.prune()

    def drop(self, run: str, step: int) -> bool:
        """Forget a result; True where there was one."""
        entry = self._entries.pop((run, step), None)
        if entry is None:
            return False
        # Description first: a blob without one is swept at the next start, the reverse is a broken result.
        remove(self._directory / f"{_stem(run, step)}.json")
        remove(self._directory / entry.blob)
        return True

    def get(self, run: str, step: int) -> ResultOffer | None:
        """The offer of one result, or None."""
        entry = self._entries.get((run, step))
        return None if entry is None else entry.offer

    def find(self, sha256: str) -> tuple[ResultOffer, Path] | None:
        """The result whose blob has this hash, and its file."""
        for entry in self._entries.values():
            if entry.offer.manifest.sha256 == sha256:
                return entry.offer, self._directory / entry.blob
        return None

    def damaged(self) -> list[ResultOffer]:
        """Results whose blob is no longer what it was."""
        return [entry.offer for entry in self._entries.values() if not self._is_whole(entry)]

    def offers(self) -> list[ResultOffer]:
        """All results, the oldest first."""
        return [entry.offer for entry in sorted(self._entries.values(), key=lambda entry: entry.sequence)]

    def prune(self) -> None:
        """Drop what is too old, then the oldest until the rest fits. The newest always stays."""
        now = self._wall_clock()
        entries = sorted(self._entries.values(), key=lambda entry: entry.sequence)
        total = sum(entry.offer.manifest.size for entry in entries)
        for entry in entries[:-1]:
            known = _CLOCK_VALID_FROM <= entry.created <= now
            held_s = self._clock() - self._held_since[entry.offer.run, entry.offer.step]
            old = known and now - entry.created > self._max_age_s and held_s >= min(self._max_age_s, _HELD_S)
            if not old and total <= self._max_bytes:
                continue
            logger.warning(
                "outbox: result of run %s step %d dropped (%s)",
                entry.offer.run,
                entry.offer.step,
                f"older than {self._max_age_s / 86400:g} days"
                if old
                else f"more than {self._max_bytes} bytes wait",
            )
            total -= entry.offer.manifest.size
            self.drop(entry.offer.run, entry.offer.step)

    def _load(self) -> None:
        """Read what survived; sweep what is not a whole result."""
        drop_temporaries(self._directory)
        for path in sorted(self._directory.glob("*.json")):
            try:
                entry = _entry(path)
            except (OSError, CodecError) as error:
                logger.warning("outbox: %s is not a description (%s); dropped", path.name, error)
                remove(path)
                continue
            if not self._is_whole(entry):
                logger.warning(
                    "outbox: blob of run %s step %d is damaged; dropped", entry.offer.run, entry.offer.step
                )
                remove(path)
                continue
            self._entries[entry.offer.run, entry.offer.step] = entry
            self._held_since[entry.offer.run, entry.offer.step] = self._clock()
        held = {entry.blob for entry in self._entries.values()}
        for blob in self._directory.glob("*.blob"):
            if blob.name not in held:
                remove(blob)

    def _is_whole(self, entry: OutboxEntry) -> bool:
        manifest = entry.offer.manifest
        try:
            return manifest_of(self._directory / Path(entry.blob).name, manifest.chunk_size) == manifest
        except OSError:
            return False


def _entry(path: Path) -> OutboxEntry:
    """Raises ``CodecError`` too where the blob's name is none: it must lie beside its description."""
    entry = read_document(read_file(path), OutboxEntry)
    if not _BLOB.fullmatch(entry.blob):
        raise CodecError("its blob's name is none of ours")
    return entry


def _stem(run: str, step: int) -> str:
    """File name of a key: run names come from the network and may hold anything."""
    return f"{hashlib.sha256(run.encode()).hexdigest()[:16]}-{step}"


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
