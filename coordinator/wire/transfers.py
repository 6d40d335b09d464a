"""Blobs on their way: task blobs out, on request; result blobs in, by requests."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import make_folder, remove
from tinyfleet.fedcore.protocol.chunks import Chunk, Receiver, pack_chunk, read_chunk
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Manifest, ResultOffer

log = logging.getLogger(__name__)

REQUEST_CHUNKS = 8  # the window: so many chunks are under way at most, per blob
MAX_DOWNLOADS = 8  # of one device at a time
# Of all devices' results together: a broker keeps only so many messages for a client, and drops what is beyond.
MOST_UNDER_WAY = 64
MAX_DAMAGED = 3  # times that a blob may arrive with the wrong hash


class OfferedBlob:
    """A blob's file that may be damaged while it is on offer: ``make`` writes it anew."""

    def __init__(self, path: Path, manifest: Manifest, blob: bytes, make: Callable[[], object]) -> None:
        self.path, self.manifest = path, manifest
        self._make = make
        starts = range(0, manifest.size, manifest.chunk_size)
        self._digests = [_digest(blob[start : start + manifest.chunk_size]) for start in starts]

    def chunk(self, index: int) -> bytes:
        """Chunk ``index``, as it was when the blob was made. Raises ``CodecError`` where it cannot be had."""
        data = self._sound(index)
        if data is None:
            log.warning("task blob %s is damaged on disk; it is made again", self.manifest.sha256[:12])
            self._make()
            data = self._sound(index)
        if data is None:
            raise CodecError(f"task blob {self.manifest.sha256[:12]} cannot be read back; check the disk")
        return data

    def _sound(self, index: int) -> bytes | None:
        try:
            data = read_chunk(self.path, self.manifest, index)
        except (CodecError, OSError):
            return None
        return data if _digest(data) == self._digests[index] else None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


class OfferedBlobs:
    """The task blobs that devices may ask for, each device a bounded number of copies of each."""

    def __init__(self, outgoing: Outgoing, limits: AllowanceSettings, clock: Callable[[], float]) -> None:
        self._outgoing, self._limits, self._clock = outgoing, limits, clock
        self._allowances: dict[tuple[str, str], Allowance] = {}  # chunks, by blob and device
        self._open: dict[str, OfferedBlob] = {}

    def offer(self, path: Path, manifest: Manifest, blob: bytes, make: Callable[[], object]) -> None:
        """Serve ``blob``, which ``make`` has written to ``path`` and writes again where that is damaged."""
        self._open[manifest.sha256] = OfferedBlob(path, manifest, blob, make)

    def keep_only(self, digests: Collection[str]) -> None:
        """Serve nothing else any more."""
        self._open = {digest: entry for digest, entry in self._open.items() if digest in digests}
        self._allowances = {key: left for key, left in self._allowances.items() if key[0] in self._open}

    @property
    def chunk_bytes(self) -> int:
        """Size of the chunks of what is offered now."""
        return self._outgoing.chunk_bytes

    @property
    def digests(self) -> frozenset[str]:
        return frozenset(self._open)

    def serve(self, device: str, request: ChunkRequest) -> None:
        """Send the chunks that a device asks for, at most ``REQUEST_CHUNKS``; it asks again for the rest."""
        entry = self._open.get(request.sha256)
        if entry is None:
            log.debug("%s asks for %s, which is not on offer", device, request.sha256[:12])
            return
        manifest = entry.manifest
        stop = min(request.start + min(request.count, REQUEST_CHUNKS), manifest.count)
        for index in range(request.start, stop):
            if not self._allowance(device, manifest).take(1.0, self._clock()):
                log.debug("%s has asked for %s often enough for now", device, request.sha256[:12])
                return
            if not self._outgoing.send_chunk(device, pack_chunk(manifest.sha256, index, entry.chunk(index))):
                return

    def _allowance(self, device: str, manifest: Manifest) -> Allowance:
        key = (manifest.sha256, device)
        found = self._allowances.get(key)
        if found is None:
            count, limits = manifest.count, self._limits
            at_once = max(limits.blob_copies * count, REQUEST_CHUNKS)
            found = self._allowances[key] = Allowance(count / limits.blob_copy_s, at_once, self._clock())
        return found


@dataclass(slots=True, eq=False)
class Download:
    """One result on its way in."""

    device: str
    offer: ResultOffer
    receiver: Receiver
    asked_at: float = 0.0  # or since then something came
    expected: int = 0  # chunks of the latest request that are still to come
    damaged: int = 0
    waits: bool = False  # for its turn to be asked for
    late: bool = False  # what was asked for last did not come in time: it gets little until it does


class Downloads:
    """Fetches offered results; survives restarts by its files in ``directory``, one folder a device."""

    def __init__(
        self, directory: Path, outgoing: Outgoing, *, timeout_s: float, clock: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._outgoing = outgoing
        self._timeout_s = timeout_s
        self._clock = clock
        self._open: dict[tuple[str, str], Download] = {}
        self._waiting: deque[Download] = deque()  # those that wait for their turn
        self._under_way = 0  # chunks of all
        self._of: Counter[str] = Counter()  # open downloads by device

    def begin(self, device: str, offer: ResultOffer) -> None:
        """Start to fetch a result, or go on with it: a repeated offer changes nothing."""
        key = (device, offer.manifest.sha256)
        if key in self._open or self._of[device] >= MAX_DOWNLOADS:
            return  # what does not fit now is offered again soon
        folder = self._directory / device
        make_folder(self._directory)
        make_folder(folder)
        download = Download(device, offer, Receiver(folder, offer.manifest))
        self._open[key] = download
        self._of[device] += 1
        self._queue(download)
        self._ask_next()

    def awaits(self, device: str, sha256: str) -> bool:
        """Whether that blob is on its way from the device."""
        return (device, sha256) in self._open

    def accept(self, device: str, chunk: Chunk) -> Download | None:
        """Take a chunk; returns the download once it is complete (``take`` gives its file)."""
        download = self._open.get((device, chunk.sha256))
        if download is None:
            return None
        if download.receiver.accept(chunk):
            download.late, download.asked_at = False, self._clock()  # over a slow link the next takes as long
            self._expect(download, max(0, download.expected - 1))
        if download.receiver.complete:
            self._expect(download, 0)
        elif not download.expected:
            self._queue(download)
        self._ask_next()
        return download if download.receiver.complete else None

    def take(self, download: Download) -> Path | None:
        """The verified file of a complete download, which is forgotten here; None: damaged, asked for again.

        Raises ``CodecError`` where it keeps arriving damaged.
        """
        key = (download.device, download.offer.manifest.sha256)
        try:
            path = download.receiver.finish()
        except CodecError:
            download.damaged += 1
            if download.damaged >= MAX_DAMAGED:
                self._drop(key)
                raise
            download.receiver = Receiver(self._directory / download.device, download.offer.manifest)
            self._queue(download)
            self._ask_next()
            return None
        self._drop(key)
        return path

    def complete(self) -> list[Download]:
        """Downloads that need no more chunks: after a restart their files may be whole already."""
        return [download for download in self._open.values() if download.receiver.complete]

    def tick(self, now: float) -> None:
        """Ask again where nothing came for a while."""
        for download in self._open.values():
            if download.expected and now - download.asked_at >= self._timeout_s:
                download.late = True
                self._queue(download)
        self._ask_next()

    def resume(self, device: str | None = None) -> None:
        """Ask again at once: the connection, or one device, is back."""
        for download in self._open.values():
            if device in (None, download.device):
                self._queue(download)
        self._ask_next()

    def forget(self, run: str, step: int) -> None:
        """Drop the downloads of a step whose results no longer count."""
        for key, download in list(self._open.items()):
            if (download.offer.run, download.offer.step) == (run, step):
                self._drop(key)
                for part in (self._directory / download.device).glob(f"*{download.offer.manifest.sha256}*"):
                    remove(part)

    def sweep(self, since: float) -> None:
        """Delete what can be of no open step: files older than ``since``, and whole ones that nobody took."""
        for file in self._directory.glob("*/*"):
            if not file.is_file() or file.suffix not in (".part", ".have") or file.stat().st_mtime < since:
                remove(file)

    def clear(self) -> None:
        """Drop everything, files included: no run is under way."""
        self._open.clear()
        self._of.clear()
        self._waiting.clear()
        self._under_way = 0
        remove(self._directory)

    def _drop(self, key: tuple[str, str]) -> None:
        download = self._open.pop(key)
        self._expect(download, 0)
        self._of[download.device] -= 1

    def _expect(self, download: Download, chunks: int) -> None:
        self._under_way += chunks - download.expected
        download.expected = chunks

    def _queue(self, download: Download) -> None:
        """Ask for it when it is its turn; what is under way of it counts as lost."""
        self._expect(download, 0)
        if not download.waits:
            download.waits = True
            self._waiting.append(download)

    def _ask_next(self) -> None:
        """As many as may be under way, whoever has waited longest."""
        while self._waiting and self._under_way < MOST_UNDER_WAY:
            download = self._waiting.popleft()
            download.waits = False
            if self._open.get((download.device, download.offer.manifest.sha256)) is download:
                self._ask(download)

    def _ask(self, download: Download) -> None:
        span = download.receiver.request(1 if download.late else REQUEST_CHUNKS)
        download.asked_at = self._clock()
        if span is not None:
            self._expect(download, span[1])
            self._outgoing.send(download.device, ChunkRequest(download.offer.manifest.sha256, *span))
