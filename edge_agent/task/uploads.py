"""Sends the chunks that the coordinator asks for, never more than the window takes, so that nothing blocks."""

from __future__ import annotations

from collections import deque

from msgspec import structs

from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.fedcore.protocol.chunks import chunk_bytes, pack_chunk, read_chunk
from tinyfleet.fedcore.protocol.messages import ChunkRequest, ResultOffer
from tinyfleet.fedcore.protocol.transport import Transport

# Of the window, left for heartbeats and other control messages.
_CONTROL_SHARE = 2
# A coordinator asks for at most eight chunks at a time; whatever asks for thousands is not served in full.
_MAX_QUEUE = 256


class ResultUploads:
    """A queue of (hash, index). A request that is repeated while it waits is queued once."""

    def __init__(self, outbox: Outbox, transport: Transport, topic: str) -> None:
        self._outbox = outbox
        self._transport = transport
        self._topic = topic
        self._queue: deque[tuple[str, int]] = deque()

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def fitting(self, offer: ResultOffer) -> ResultOffer:
        """The offer with chunks of a size that the broker takes, whatever it was when the result was made."""
        most = chunk_bytes(self._transport.payload_bytes(self._topic))
        if offer.manifest.chunk_size <= most:
            return offer
        return structs.replace(offer, manifest=structs.replace(offer.manifest, chunk_size=most))

    def asked(self, request: ChunkRequest) -> bool:
        """Queue a range; False where no result here has that hash."""
        found = self._outbox.find(request.sha256)
        if found is None:
            return False
        stop = min(request.start + request.count, self.fitting(found[0]).manifest.count)
        queued = set(self._queue)
        for index in range(request.start, stop):
            if (request.sha256, index) not in queued and len(self._queue) < _MAX_QUEUE:
                self._queue.append((request.sha256, index))
        return True

    def pump(self) -> None:
        """Send what the window takes now. Raises ``TransportError``."""
        while self._queue and self._transport.window_free > _CONTROL_SHARE:
            sha256, index = self._queue.popleft()
            found = self._outbox.find(sha256)
            if found is None:
                continue  # the verdict came while it waited
            offer, path = found
            data = read_chunk(path, self.fitting(offer).manifest, index)
            self._transport.publish(self._topic, pack_chunk(sha256, index, data))

    def clear(self) -> None:
        """After a disconnect: the coordinator asks again."""
        self._queue.clear()
