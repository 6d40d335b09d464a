"""Messages and chunks to devices. A broker that is away is not an error: whatever was lost is asked for again."""

from __future__ import annotations

import logging

from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol import messages, topics
from tinyfleet.fedcore.protocol.chunks import chunk_bytes
from tinyfleet.fedcore.protocol.transport import Transport

SPARED = 8  # publishes that may always be under way to devices that are accepted

log = logging.getLogger(__name__)


class Outgoing:
    """Sends to devices by name."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def chunk_bytes(self) -> int:
        """Size of chunks that the broker takes, whatever the device's name."""
        return chunk_bytes(self._transport.payload_bytes(topics.down_chunk(topics.LONGEST_DEVICE)))

    @property
    def connected(self) -> bool:
        return self._transport.connected

    @property
    def idle(self) -> bool:
        """True while so little is under way that an answer to anybody holds nobody up."""
        return self._transport.window_free > SPARED

    def spare(self, device: str, message: messages.Message) -> bool:
        """One control message to a device that nobody has accepted: only where nothing else waits to be sent."""
        return self.idle and self.send(device, message)

    def send(self, device: str, message: messages.Message) -> bool:
        """One control message; False where it could not be handed to the broker."""
        return self._publish(topics.down(device), messages.encode(message))

    def send_chunk(self, device: str, data: bytes) -> bool:
        """One chunk; False likewise."""
        return self._publish(topics.down_chunk(device), data)

    def _publish(self, topic: str, data: bytes) -> bool:
        if not self._transport.connected:
            return False
        try:
            self._transport.publish(topic, data)
        except TransportError as error:
            log.info("not sent to %s: %s", topic, error)
            return False
        return True
