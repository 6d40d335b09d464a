"""How a virtual device signs what it says. What it hears it believes: to verify that is a board's work."""

from __future__ import annotations

import hashlib
import secrets

from tinyfleet.fedcore.protocol.messages import Challenge, DownMessage, Message, decode_down, encode
from tinyfleet.fedcore.protocol.signed.envelope import Address, Direction, seal, unseal
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, key_text


class VirtualChannel:
    """Of one device; its key is made from its name."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._key = SigningKey(hashlib.sha256(device.encode()).digest())
        self.session = secrets.token_hex(8)
        self._fleet = self._peer = ""
        self._counter = 0

    @property
    def public_key(self) -> str:
        return key_text(self._key.public)

    def seal(self, message: Message) -> bytes:
        """The one place where its messages become bytes."""
        self._counter += 1
        address = Address(self._fleet, self._device, self.session, self._peer)
        return seal(self._key, Direction.UP, address, self._counter, encode(message))

    def open(self, payload: bytes) -> DownMessage | None:
        """What was said to it; None where it was to an earlier session. Raises ``CodecError``."""
        envelope = unseal(payload)
        if envelope.peer != self.session:
            return None
        message = decode_down(bytes(envelope.body))
        if isinstance(message, Challenge):
            self._fleet, self._peer = envelope.fleet, envelope.session
        return message
