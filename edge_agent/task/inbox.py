"""Fetches task blobs to disk, chunk by chunk: a gap or a restart costs only what is missing."""

from __future__ import annotations

import logging
from pathlib import Path

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import free_bytes, make_folder, make_room_for, remove, sync_directory
from tinyfleet.fedcore.protocol.chunks import Receiver, manifest_of, unpack_chunk
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Manifest

logger = logging.getLogger(__name__)

REQUEST_CHUNKS = 8
# Silence after which the same range is asked for again.
REPEAT_S = 3.0
# Whole blobs kept: the one at work, and the one before it, in case its task is offered again.
KEPT_BLOBS = 2
# Left free on the disk for the result and everybody else.
SPARE_BYTES = 64_000_000
# The receiver holds one byte a chunk: absurdly small chunks of a large blob are refused.
MAX_CHUNKS = 1 << 16


class Inbox:
    """One blob at a time. Files: ``SHA256.task`` when whole, a directory ``SHA256.part`` before."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._manifest: Manifest | None = None
        self._receiver: Receiver | None = None
        self._asked: tuple[int, int] | None = None
        self._heard = 0.0  # when the outstanding range was asked for, or last gave a chunk
        directory.mkdir(parents=True, exist_ok=True)

    def open(self, manifest: Manifest) -> None:
        """Begin, or take up again, one blob. Raises ``CodecError`` where there is no room for it."""
        if manifest.size > self._max_bytes:
            raise CodecError(
                f"blob of {manifest.size} bytes; storage.inbox_limit of this device is {self._max_bytes} bytes"
            )
        if manifest.count > MAX_CHUNKS:
            raise CodecError(f"blob of {manifest.count} chunks; at most {MAX_CHUNKS} are taken, send larger ones")
        self._make_room(manifest)
        free = free_bytes(self._directory)
        if free < manifest.size + SPARE_BYTES:
            raise CodecError(f"blob of {manifest.size} bytes; only {free} bytes are free on the device's disk")
        self._manifest, self._asked = manifest, None
        self._receiver = None
        whole = self._whole(manifest)
        make_room_for(whole)
        if whole.is_file() and manifest_of(whole, manifest.chunk_size) == manifest:
            return
        partial = self._partial(manifest)
        make_folder(partial)
        self._receiver = Receiver(partial, manifest)

    def close(self) -> None:
        """Stop fetching; what has come stays for another try."""
        self._manifest = self._receiver = self._asked = None

    def accept(self, payload: bytes, now: float) -> None:
        """Take a chunk message. Raises ``CodecError``; a chunk of another blob is left out quietly."""
        chunk = unpack_chunk(payload)
        if self._receiver is None or self._manifest is None or chunk.sha256 != self._manifest.sha256:
            return
        if self._receiver.accept(chunk):
            self._heard = now

    def due(self, now: float) -> ChunkRequest | None:
        """What to ask for now: the next missing range, or the outstanding one after a silence."""
        if self._receiver is None or self._manifest is None:
            return None
        missing = self._receiver.request(REQUEST_CHUNKS)
        if missing is None:
            return None
        if self._asked is not None and now - self._heard < REPEAT_S:
            start, count = self._asked
            if start <= missing[0] < start + count:
                return None  # still on its way
        self._asked, self._heard = missing, now
        return ChunkRequest(self._manifest.sha256, *missing)

    def ask_again(self) -> None:
        """After a reconnect: nothing is on its way any more."""
        self._asked = None

    def finished(self) -> Path | None:
        """The whole blob, its hash verified; None while chunks are missing.

        Raises ``CodecError`` where the hash is wrong; the bad file is gone then, and ``open`` starts anew.
        """
        if self._manifest is None:
            return None
        whole = self._whole(self._manifest)
        if self._receiver is None:
            return whole
        if not self._receiver.complete:
            return None
        self._receiver.finish().replace(whole)
        sync_directory(self._directory)
        remove(self._partial(self._manifest))
        self._receiver = None
        return whole

    def _whole(self, manifest: Manifest) -> Path:
        return self._directory / f"{manifest.sha256}.task"

    def _partial(self, manifest: Manifest) -> Path:
        return self._directory / f"{manifest.sha256}.part"

    def _make_room(self, manifest: Manifest) -> None:
        """Drop other blobs: partial ones, and whole ones beyond ``KEPT_BLOBS`` or the byte limit, oldest first."""
        for partial in self._directory.glob("*.part"):
            if partial != self._partial(manifest):
                remove(partial)
        others = [path for path in self._directory.glob("*.task") if path != self._whole(manifest)]
        others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        total = manifest.size
        for position, path in enumerate(others):
            total += path.stat().st_size
            if position >= KEPT_BLOBS - 1 or total > self._max_bytes:
                remove(path)
