"""Keys that tests know by name, and messages signed with them."""

from __future__ import annotations

import hashlib
import itertools

from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.identity import Identity
from tinyfleet.fedcore.protocol.messages import Message, encode
from tinyfleet.fedcore.protocol.signed.envelope import Address, Direction, seal
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, fleet_id, key_text


def key_named(name: str) -> SigningKey:
    """Always the same key for the same name."""
    return SigningKey(hashlib.sha256(name.encode()).digest())


FLEET_KEY = key_named("the fleet of the tests")


def identity_of(device: str, key: str = "") -> Identity:
    """A device whose key goes by ``key``; by its own name where that is empty."""
    return identity.of(key_named(key or device), device)


def public_key_of(name: str) -> str:
    """As it travels."""
    return key_text(key_named(name).public)


class Signer:
    """Signs as one side in one session, with counters that rise from ``counter``."""

    def __init__(
        self,
        key: SigningKey,
        direction: Direction,
        device: str,
        session: str,
        *,
        peer: str = "",
        fleet: str = fleet_id(FLEET_KEY.public),
        counter: int = 1,
    ) -> None:
        self.key, self.direction = key, direction
        self.device, self.session, self.peer, self.fleet = device, session, peer, fleet
        self.counters = itertools.count(counter)

    def seal(self, message: Message | bytes) -> bytes:
        """One message, or the JSON of what should be one."""
        body = message if isinstance(message, bytes) else encode(message)
        address = Address(self.fleet, self.device, self.session, self.peer)
        return seal(self.key, self.direction, address, next(self.counters), body)
