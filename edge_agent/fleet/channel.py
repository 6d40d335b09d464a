"""What the agent says, signed; and what is said to it, once it is known to be the fleet's, new, and for it."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable

from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.fleet.strangers import Strangers
from tinyfleet.edge_agent.identity import Identity
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    DownMessage,
    HelloWanted,
    Message,
    Welcome,
    decode_down,
    encode,
)
from tinyfleet.fedcore.protocol.signed.envelope import Address, Direction, Envelope, seal, unseal
from tinyfleet.fedcore.protocol.signed.signatures import fleet_id, key_bytes

logger = logging.getLogger(__name__)

# A counter is a connection's number and a message's within it. The last will of a connection is signed before it
# stands: it takes the last number, so that it counts after all that was said over it, and before what is said over
# the next.
_NUMBER_BITS = 32
_LAST_NUMBER = (1 << _NUMBER_BITS) - 1
# Where two coordinators have one key, how long the agent stays with the one that greeted it last.
_FIRST_STAY_S, _LONGEST_STAY_S = 30.0, 600.0
_FORMER = 8  # coordinator sessions that are remembered

_BEFORE_THE_PIN = (Challenge, HelloWanted, Welcome)


class Channel:
    """Of one start of the agent, which ``session`` tells from the others. ``will`` may be called in any thread."""

    def __init__(self, identity: Identity, pin: FleetPin, session: str, clock: Callable[[], float]) -> None:
        self.session = session
        self.strangers = Strangers(pin, identity.device, clock)
        self._identity = identity
        self._pin = pin
        self._clock = clock
        self._fleet_key = pin.key  # of whom is heard: until it is pinned, of who answered the greeting first
        self._nonce = ""
        self.peer = ""  # the coordinator's session
        self._heard = -1  # its latest counter
        self._former: deque[str] = deque(maxlen=_FORMER)
        self._stays_until, self._stay_s = 0.0, _FIRST_STAY_S
        self._lock = threading.Lock()
        self._wills = 0
        self._connection = self._number = 0

    @property
    def established(self) -> bool:
        """Whether a coordinator has shown that it is there now: before, nothing but a greeting means anything."""
        return bool(self.peer)

    @property
    def fleet(self) -> str:
        """The id of the fleet that is heard; empty: none yet."""
        return self._pin.fleet if self._fleet_key is None else fleet_id(self._fleet_key)

    # -- what is said -------------------------------------------------------------------------

    def connected(self) -> None:
        """A new connection stands: what is said over it comes after the last will of the one before."""
        with self._lock:
            if self._wills > self._connection:
                self._connection, self._number = self._wills, 0
        self._fleet_key = self._pin.key
        if self._fleet_key is None:
            self.peer = ""

    def seal(self, message: Message) -> bytes:
        """One message as it goes to the broker."""
        return self._sealed(encode(message), self._next())

    def will(self, message: Message) -> bytes:
        """The last will of the next connection."""
        with self._lock:
            self._wills += 1
            counter = self._wills << _NUMBER_BITS | _LAST_NUMBER
        return self._sealed(encode(message), counter)

    def nonce(self) -> str:
        """A new one, for a greeting: the answer to an earlier one counts no more."""
        self._nonce = secrets.token_hex(16)
        return self._nonce

    def _next(self) -> int:
        with self._lock:
            self._number = min(self._number + 1, _LAST_NUMBER - 1)
            return self._connection << _NUMBER_BITS | self._number

    def _sealed(self, body: bytes, counter: int) -> bytes:
        address = Address(self.fleet, self._identity.device, self.session, self.peer)
        return seal(self._identity.key, Direction.UP, address, counter, body)

    # -- what is heard ------------------------------------------------------------------------

    def open(self, payload: bytes) -> DownMessage | None:
        """The message, ``HelloWanted`` where its sender must be greeted first, or None where it does not count.

        Raises ``Unauthentic`` where it is not signed by the fleet, ``CodecError`` where the fleet signed nonsense.
        """
        envelope = _unsealed(payload)
        if envelope.device != self._identity.device or envelope.peer != self.session:
            logger.debug("ignored a message for %s, session %s", envelope.device, envelope.peer)
            return None
        key = self._key_for(envelope)
        if key is None:
            return None
        if not envelope.signed_by(key, Direction.DOWN):
            raise Unauthentic("its signature is not the fleet's")
        message = decode_down(bytes(envelope.body))
        if isinstance(message, Challenge):
            return message if self._meets(envelope, message, key) else None
        if envelope.session != self.peer:
            return HelloWanted() if self._clock() >= self._stays_until else None
        if envelope.counter <= self._heard:
            logger.debug("ignored a message that was heard before")
            return None
        self._heard = envelope.counter
        if self._pin.key is None and not isinstance(message, _BEFORE_THE_PIN):
            logger.debug("ignored a %s: no fleet is pinned", type(message).__name__)
            return None
        return message

    def accepted(self) -> None:
        """The operator lets this board in: it belongs to this fleet from now on. Raises ``OSError``."""
        if self._pin.key is None and self._fleet_key is not None:
            self._pin.keep(self._fleet_key)
            logger.info("this board belongs to fleet %s from now on", self.strangers.own)

    def _key_for(self, envelope: Envelope) -> bytes | None:
        """Whose signature it must have; None where its fleet is not heard."""
        if self._fleet_key is not None:
            if envelope.fleet == fleet_id(self._fleet_key):
                return self._fleet_key
            self.strangers.noticed(envelope.fleet)
            return None
        if not self._pin.admits(envelope.fleet):
            self.strangers.noticed(envelope.fleet)
            return None
        try:
            message = decode_down(bytes(envelope.body))
        except CodecError as error:
            raise Unauthentic(str(error)) from None
        key = key_bytes(message.fleet_key) if isinstance(message, Challenge) else None
        return key if key is not None and fleet_id(key) == envelope.fleet else None

    def _meets(self, envelope: Envelope, challenge: Challenge, key: bytes) -> bool:
        """The coordinator is there now: it has the nonce of the greeting that waits."""
        if not self._nonce or challenge.nonce != self._nonce:
            return False
        session, now = envelope.session, self._clock()
        if session != self.peer:
            if session in self._former:
                if now < self._stays_until:
                    return False
                self._stays_until = now + self._stay_s
                self._stay_s = min(2 * self._stay_s, _LONGEST_STAY_S)
                self.strangers.second_coordinator()
            if self.peer:
                self._former.append(self.peer)
            self.peer = session
        self._nonce, self._fleet_key, self._heard = "", key, envelope.counter
        return True


def _unsealed(payload: bytes) -> Envelope:
    try:
        return unseal(payload)
    except CodecError as error:
        unsigned = _of_protocol_1(payload)
        raise Unauthentic(unsigned or str(error)) from None


def _of_protocol_1(payload: bytes) -> str:
    try:
        kind = type(decode_down(payload)).__name__
    except CodecError:
        return ""
    return f"a {kind} without a signature, as protocol 1 had it; update the coordinator"
