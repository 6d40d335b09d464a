"""Messages and chunks to devices. A broker that is away is not an error: whatever was lost is asked for again."""

from __future__ import annotations

import logging

from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol import messages, topics
from tinyfleet.fedcore.protocol.chunks import chunk_bytes
from tinyfleet.fedcore.protocol.signed.envelope import Address, Direction, seal
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, fleet_id
from tinyfleet.fedcore.protocol.transport import Transport

SPARED = 8  # publishes that may always be under way to devices that are accepted

log = logging.getLogger(__name__)


class Outgoing:
    """Sends to devices by name, signed with the fleet's ``key``. ``session`` tells this start from every other."""

    def __init__(self, transport: Transport, key: SigningKey, session: str) -> None:
        self.session = session
        self.fleet, self.fleet_key = fleet_id(key.public), key.public
        self._transport = transport
        self._key = key
        self._counter = 0
        self._sessions: dict[str, str] = {}  # of the devices that have greeted this start

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

    def attach(self, device: str, session: str) -> None:
        """From now on messages to ``device`` are for that session of its agent."""
        self._sessions[device] = session

    def detach(self, device: str) -> None:
        """Say nothing more to it until it greets."""
        self._sessions.pop(device, None)

    def send(self, device: str, message: messages.Message) -> bool:
        """One control message; False where it has not greeted yet, or could not be handed to the broker."""
        session = self._sessions.get(device)
        return session is not None and self.answer(device, session, message)

    def answer(self, device: str, session: str, message: messages.Message) -> bool:
        """One control message to whoever spoke as ``device`` in that session; False likewise."""
        self._counter += 1
        address = Address(self.fleet, device, self.session, session)
        payload = seal(self._key, Direction.DOWN, address, self._counter, messages.encode(message))
        return self._publish(topics.down(device), payload)

    def answer_unsigned(self, device: str, message: messages.Message) -> bool:
        """To an agent that is too old to read a signed one: only where nothing else waits to be sent."""
        return self.idle and self._publish(topics.down(device), messages.encode(message))

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
