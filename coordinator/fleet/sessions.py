"""Who speaks: what devices say, once it is known to be theirs, new, and of a session that is there now."""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tinyfleet.coordinator.fleet.registry import Registry
from tinyfleet.coordinator.fleet.rivals import Rivals
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.fedcore.errors import CodecError, Unauthentic
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    Enrolment,
    Goodbye,
    Hello,
    HelloWanted,
    UpMessage,
    Welcome,
    decode_up,
)
from tinyfleet.fedcore.protocol.signed.envelope import Direction, Envelope, unseal
from tinyfleet.fedcore.protocol.signed.signatures import key_bytes, key_text
from tinyfleet.fedcore.protocol.version import OLDEST_PROTOCOL, PROTOCOL

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

_MOST_SESSIONS = 20_000  # devices whose session is known; who spoke longest ago has to greet again
_MOST_ASKED = 4096  # challenges, and wishes for a hello, that are remembered
_CHALLENGE_S = 60.0  # how long one may be answered
# Whoever does not greet although asked is asked half as often each time.
_FIRST_WISH_S, _LONGEST_WISH_S = 1.0, 600.0
_FORMER = 8  # sessions of one device that are remembered


@dataclass(slots=True)
class _Session:
    """The one that a device has shown to be in, and the counter of its latest message."""

    name: str
    counter: int
    former: deque[str] = field(default_factory=lambda: deque(maxlen=_FORMER))


@dataclass(frozen=True, slots=True)
class _Asked:
    challenge: str
    nonce: str
    counter: int  # of the greeting that it met
    until: float


@dataclass(slots=True)
class _Wish:
    every_s: float
    at: float


class Sessions:
    """Opens envelopes. A device that is not known here, or not in this session, is asked for a hello: no more."""

    def __init__(self, outgoing: Outgoing, registry: Registry, rivals: Rivals, clock: Callable[[], float]) -> None:
        self._outgoing, self._registry, self._rivals, self._clock = outgoing, registry, rivals, clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        # By key too: anybody may greet in the session of another, and with any counter.
        self._asked: OrderedDict[tuple[str, str, bytes], _Asked] = OrderedDict()
        self._wishes: OrderedDict[tuple[str, str], _Wish] = OrderedDict()

    def unseal(self, device: str, payload: bytes) -> Envelope | None:
        """What came on the topic of ``device``, its signature not looked at; None where it was heard before.

        Raises ``Unauthentic`` for what the device cannot have signed.
        """
        envelope = self._unsealed(device, payload)
        if envelope.device != device:
            raise Unauthentic(f"it is signed for {envelope.device}")
        session = self._sessions.get(device)
        if session is not None and session.name == envelope.session and envelope.counter <= session.counter:
            log.debug("ignored a message of %s that was heard before", device)
            return None
        return envelope

    def open(self, device: str, envelope: Envelope) -> UpMessage | None:
        """The message that ``unseal`` found; None where it does not count, or counts only after a hello.

        Raises ``Unauthentic`` where the device did not sign it, ``CodecError`` where it signed nonsense.
        """
        if envelope.fleet not in ("", self._outgoing.fleet):
            self._rivals.foreign(device, envelope.fleet)
            if self._outgoing.idle:  # nobody has verified it
                self.wish(device, envelope.session)  # which it will not do: it says that another fleet is here
            return None
        known = self._registry.key_of(device)
        if known is not None and envelope.signed_by(known, Direction.UP):
            message = decode_up(bytes(envelope.body))
            if isinstance(message, Hello):
                answers = self._answers(device, envelope, message, known)
                return self._takes_up(device, envelope, message) if answers else None
            return self._fresh(device, envelope, message)
        return self._of_another_key(device, envelope, known)

    def wish(self, device: str, session: str) -> None:
        """Ask for a hello, unless that was done a moment ago."""
        if not self._too_busy_for(device) and self._seldom(device, session):
            self._outgoing.answer(device, session, HelloWanted())

    def forget(self, device: str) -> None:
        """The operator does not know it any more."""
        self._sessions.pop(device, None)
        self._outgoing.detach(device)

    # -- inside -------------------------------------------------------------------------

    def _seldom(self, device: str, session: str) -> bool:
        """True where it is time to ask that session again."""
        now, key = self._clock(), (device, session)
        wish = self._wishes.get(key)
        if wish is not None and now < wish.at:
            return False
        if wish is None or now - wish.at > _LONGEST_WISH_S:
            wish = self._wishes[key] = _Wish(_FIRST_WISH_S, now)
        wish.at, wish.every_s = now + wish.every_s, min(2 * wish.every_s, _LONGEST_WISH_S)
        _bound(self._wishes, _MOST_ASKED)
        return True

    def _unsealed(self, device: str, payload: bytes) -> Envelope:
        try:
            return unseal(payload)
        except CodecError as error:
            if _is_hello(payload):
                reason = f"its agent speaks protocol 1, and this coordinator {_SPOKEN}, which is signed; update it"
                if self._seldom(device, ""):
                    self._outgoing.answer_unsigned(device, Welcome(Enrolment.REJECTED, reason=reason, protocol=1))
                raise Unauthentic(reason) from None
            raise Unauthentic(str(error)) from None

    def _of_another_key(self, device: str, envelope: Envelope, known: bytes | None) -> Hello | None:
        """A newcomer, or somebody who is not the device that goes by this name."""
        try:
            message = decode_up(bytes(envelope.body))
        except CodecError as error:
            raise Unauthentic(str(error)) from None
        if not isinstance(message, Hello):
            if known is not None:
                raise Unauthentic("its signature is not the device's")
            self.wish(device, envelope.session)
            return None
        key = key_bytes(message.public_key)
        if key is None or not envelope.signed_by(key, Direction.UP):
            raise Unauthentic("a hello that is not signed by the key in it")
        if not self._answers(device, envelope, message, key):
            return None
        if known is not None and not self._registry.takes_new_key(device):
            self._refuse(device, envelope.session, key)
            return None
        return self._takes_up(device, envelope, message)

    def _refuse(self, device: str, session: str, key: bytes) -> None:
        """Told to that session alone: the device itself does not listen to it."""
        self._rivals.other_key(device, key)
        reason = (
            f"{device} is known here by another public key; restore the device's identity file, give it a new "
            f"name, or let the operator take its new key: tinyfleet devices rekey {device}"
        )
        self._outgoing.answer(device, session, Welcome(Enrolment.REJECTED, reason=reason))

    def _answers(self, device: str, envelope: Envelope, hello: Hello, signer: bytes) -> bool:
        """True for a hello that answers our challenge, which an old one cannot; any other is challenged."""
        if hello.session != envelope.session:
            raise CodecError(f"a hello of session {hello.session} in an envelope of {envelope.session}")
        key, now = (device, envelope.session, signer), self._clock()
        session, asked = self._sessions.get(device), self._asked.get(key)
        heard = max(
            session.counter if session is not None and session.name == envelope.session else -1,
            asked.counter if asked is not None else -1,
        )
        if envelope.counter <= heard:
            return False
        if not hello.answer:
            if self._too_busy_for(device):
                return False
            asked = self._asked[key] = _Asked(
                secrets.token_hex(16), hello.nonce, envelope.counter, now + _CHALLENGE_S
            )
            self._asked.move_to_end(key)
            _bound(self._asked, _MOST_ASKED)
            challenge = Challenge(hello.nonce, asked.challenge, key_text(self._outgoing.fleet_key))
            self._outgoing.answer(device, envelope.session, challenge)
            return False
        if asked is None or now > asked.until or (hello.answer, hello.nonce) != (asked.challenge, asked.nonce):
            log.debug("%s answered no challenge that stands", device)
            return False
        del self._asked[key]
        return True

    def _too_busy_for(self, device: str) -> bool:
        """True for a stranger while much is under way to others: it will say hello again."""
        return not self._outgoing.idle and self._registry.key_of(device) is None

    def _takes_up(self, device: str, envelope: Envelope, hello: Hello) -> Hello | None:
        """Its session is the device's from now on; None where another board of that identity is there already."""
        session = self._sessions.get(device)
        if session is None:
            session = self._sessions[device] = _Session(envelope.session, envelope.counter)
        elif session.name != envelope.session:
            if envelope.session in session.former:
                self._rivals.cloned(device)
                if self._registry.online(device):
                    reason = f"another board has the identity of {device}, as where a card was copied"
                    self._outgoing.answer(device, envelope.session, Welcome(Enrolment.REJECTED, reason=reason))
                    return None
            session.former.append(session.name)
            session.name = envelope.session
        session.counter = envelope.counter
        self._sessions.move_to_end(device)
        for gone in _bound(self._sessions, _MOST_SESSIONS):
            self._outgoing.detach(gone)
        self._outgoing.attach(device, envelope.session)
        return hello

    def _fresh(self, device: str, envelope: Envelope, message: UpMessage) -> UpMessage | None:
        session = self._sessions.get(device)
        if session is None or session.name != envelope.session:
            self.wish(device, envelope.session)
            return None
        # A last will was signed before its connection stood, perhaps in the time of an earlier coordinator.
        if envelope.peer != self._outgoing.session and not isinstance(message, Goodbye):
            self._rivals.second_coordinator(device)
            self.wish(device, envelope.session)
            return None
        session.counter = envelope.counter
        self._sessions.move_to_end(device)
        return message


_SPOKEN = f"{OLDEST_PROTOCOL} to {PROTOCOL}"


def _is_hello(payload: bytes) -> bool:
    try:
        return isinstance(decode_up(payload), Hello)
    except CodecError:
        return False


def _bound(entries: OrderedDict[K, V], most: int) -> list[K]:
    """Drop the oldest beyond ``most``; returns which."""
    return [entries.popitem(last=False)[0] for _ in range(len(entries) - most)]
