"""The envelope of every control message: whose it is, for whom, in which order, and a signature over all of it.

A message counts once, in the pair of sessions that it was made for: counters rise strictly, and a session is one
start of an agent or of a coordinator. Chunks travel without an envelope: what they make up is named by its SHA-256
in a message that has one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.protocol.messages import MAX_MESSAGE_BYTES
from tinyfleet.fedcore.protocol.signed.libcrypto import SIGNATURE_BYTES
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, verify

FleetId = Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?$")]
Session = Annotated[str, Meta(pattern=r"^[0-9a-z]{1,32}$")]
Peer = Annotated[str, Meta(pattern=r"^[0-9a-z]{0,32}$")]
Counter = Annotated[int, Meta(ge=0, lt=1 << 62)]
DeviceName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]

_LENGTHS = struct.Struct(">6I")


class Direction(StrEnum):
    """Which way a message goes: no signature of one way is one of the other."""

    UP = "up"
    DOWN = "down"


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """As it travels, in JSON. ``peer`` is the receiver's session; empty: not known yet. So is ``fleet``."""

    fleet: FleetId
    device: DeviceName
    session: Session
    peer: Peer
    counter: Counter
    body: msgspec.Raw
    signature: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    def signed_by(self, public: bytes, direction: Direction) -> bool:
        """True where the owner of the raw public key ``public`` has signed every field of it."""
        address = Address(self.fleet, self.device, self.session, self.peer)
        return verify(public, _signed(address, direction, self.counter, bytes(self.body)), self.signature)


@dataclass(frozen=True, slots=True)
class Address:
    """Whose a message is and for whom, as in ``Envelope``."""

    fleet: str
    device: str
    session: str
    peer: str


_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def seal(key: SigningKey, direction: Direction, address: Address, counter: int, body: bytes) -> bytes:
    """One message, ``body`` in JSON, as it goes to the broker."""
    signature = key.sign(_signed(address, direction, counter, body))
    return _encoder.encode(
        Envelope(
            address.fleet, address.device, address.session, address.peer, counter, msgspec.Raw(body), signature
        )
    )


def unseal(payload: bytes) -> Envelope:
    """What has arrived, its signature not looked at yet. Raises ``CodecError`` for anything that is no envelope."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise CodecError(f"control message of {len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are read")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a signed message: {printable(str(error), 300)}") from None


def _signed(address: Address, direction: Direction, counter: int, body: bytes) -> bytes:
    """Every field with its length before it, so that no two messages give the same bytes."""
    fields = [
        f"tinyfleet 2 {direction}".encode(),
        address.fleet.encode(),
        address.device.encode(),
        address.session.encode(),
        address.peer.encode(),
        body,
    ]
    return _LENGTHS.pack(*map(len, fields)) + struct.pack(">Q", counter) + b"".join(fields)
