"""The link to the coordinator: its state, what is due on it, and how anything is said on it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import msgspec

from tinyfleet.edge_agent.fleet.channel import Channel
from tinyfleet.edge_agent.states import LINK_TABLE, LinkEvent, LinkState
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import Challenge, Enrolment, Heartbeat, Hello, Message, Welcome
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.transport import Transport
from tinyfleet.fedcore.protocol.version import OLDEST_PROTOCOL, PROTOCOL, common_protocol

logger = logging.getLogger(__name__)

# A greeting that nobody answers is said again soon, for one may get lost, and then half as often each time: more
# would keep a coordinator from answering that has thousands to greet.
HELLO_REPEAT_S, LONGEST_HELLO_REPEAT_S = 1.0, 10.0
# While it waits for the operator: a coordinator that many strangers greet forgets some of them.
PENDING_HELLO_REPEAT_S = 60.0
# A board that was turned away asks now and then whether that has changed.
REJECTED_REPEAT_S = 60.0
# Whoever wants to be greeted again, more often it does not happen.
_WANTED_AGAIN_S = 1.0
# Until a Welcome names another.
_FIRST_HEARTBEAT_S = 5.0
# However often the coordinator wants to hear of this board.
LEAST_HEARTBEAT_S = 0.5
# For so long a board may greet, or hear that nobody subscribes, before it says that no coordinator is there.
MUTE_S = 20.0
# A control message waits no longer for the window: the loop must go on.
_PUBLISH_TIMEOUT_S = 5.0

_ASKS_AGAIN_S = {LinkState.PENDING: PENDING_HELLO_REPEAT_S, LinkState.REJECTED: REJECTED_REPEAT_S}

_WELCOMED = {
    Enrolment.PENDING: LinkEvent.WELCOMED_PENDING,
    Enrolment.ACCEPTED: LinkEvent.WELCOMED_ACCEPTED,
    Enrolment.REJECTED: LinkEvent.WELCOMED_REJECTED,
}


class Link:
    """Follows ``LINK_TABLE``. ``hello`` and ``heartbeat`` make the messages when they are due."""

    def __init__(
        self,
        transport: Transport,
        device: str,
        channel: Channel,
        *,
        hello: Callable[[], Hello],
        heartbeat: Callable[[], Heartbeat],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self.state = LinkState.OFFLINE
        self._transport = transport
        self._topic, self._heard_on = topics.up(device), topics.down(device)
        self._channel = channel
        self._hello = hello
        self._heartbeat = heartbeat
        self._clock = clock
        self._rng = rng
        self._heartbeat_s = _FIRST_HEARTBEAT_S
        self._next_hello = self._next_heartbeat = 0.0
        self._hello_repeat_s = HELLO_REPEAT_S
        self._greets_again = 0.0
        self._down: Cause | None = None  # why there is no connection
        self._silent_since: float | None = None  # no coordinator has been there
        self._enrolment: LinkState | None = None  # that was last told

    @property
    def cause(self) -> Cause | None:
        """What keeps the coordinator away; None: nothing, or nothing that is known yet."""
        if self.state is LinkState.OFFLINE:
            return self._down
        if (hindrance := self._transport.hindrance) is not None:
            return hindrance
        if self._silent_since is None or self._clock() - self._silent_since < MUTE_S:
            return None
        return Cause(
            CauseKind.COORDINATOR,
            f"{self._transport.address}: it answers, no coordinator does; start one on this broker, or let its "
            f"access list allow this board to write {self._topic} and to read {self._heard_on}",
        )

    @property
    def answered(self) -> bool:
        """Whether a coordinator has answered on this connection."""
        return self.state not in (LinkState.OFFLINE, LinkState.GREETING)

    @property
    def online(self) -> bool:
        """Whether anybody may hear what is said."""
        return self.state is not LinkState.OFFLINE

    def send(self, message: Message) -> None:
        """Publish where a coordinator has answered. What gets lost is said again or asked for again."""
        if self._channel.established:
            self._publish(message)

    def _publish(self, message: Message) -> None:
        if not self._transport.connected:
            return
        try:
            self._transport.publish(self._topic, self._channel.seal(message), _PUBLISH_TIMEOUT_S)
        except TransportError as error:
            logger.info("%s not sent: %s", type(message).__name__, error)

    def connected(self) -> None:
        """The broker is there: greet."""
        self._channel.connected()
        self._follow(LinkEvent.CONNECTED)
        self._silent_since = self._clock()
        self._hello_repeat_s = HELLO_REPEAT_S
        logger.debug("connected")
        self._greet()

    def disconnected(self, cause: Cause | None) -> None:
        """The broker is gone, for that reason; the transport keeps trying, and training goes on."""
        self._follow(LinkEvent.DISCONNECTED)
        self._down = cause
        self._channel.strangers.disconnected(cause)

    def hello_wanted(self) -> None:
        """A coordinator does not know this start of the agent, or is a new start itself."""
        now = self._clock()
        if self.online and now >= self._greets_again:
            self._greets_again = now + _WANTED_AGAIN_S
            self._greet()

    def challenged(self, challenge: Challenge) -> None:
        """The coordinator has answered the greeting: show that this is no old one."""
        hello = msgspec.structs.replace(self._hello(), nonce=challenge.nonce, answer=challenge.challenge)
        self._publish(hello)

    def welcomed(self, welcome: Welcome) -> None:
        """The coordinator knows this board, and says what it is to it."""
        if common_protocol(welcome.protocol) != welcome.protocol:
            logger.warning(
                "the coordinator speaks protocol %d, and this agent %d to %d; update the older of the two",
                *(welcome.protocol, OLDEST_PROTOCOL, PROTOCOL),
            )
            welcome = msgspec.structs.replace(welcome, enrolment=Enrolment.REJECTED)
        self._follow(_WELCOMED[welcome.enrolment])
        if self.state in _ASKS_AGAIN_S:
            self._put_hello_off()
        self._heartbeat_s = max(welcome.heartbeat_s, LEAST_HEARTBEAT_S)
        self._next_heartbeat = min(self._next_heartbeat, self._clock() + self._heartbeat_s)
        if self.state is not self._enrolment:
            self._enrolment = self.state
            logger.info("enrolment: %s%s", self.state.value, f" ({welcome.reason})" if welcome.reason else "")

    def tick(self) -> None:
        """Say what is due now."""
        now = self._clock()
        if self.state is not LinkState.GREETING and not self._transport.unheard(self._topic):
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        if (self.state is LinkState.GREETING or self.state in _ASKS_AGAIN_S) and now >= self._next_hello:
            self._greet()
        if self.online and now >= self._next_heartbeat:
            self._next_heartbeat = now + self._heartbeat_s
            self.send(self._heartbeat())

    def _greet(self) -> None:
        """Hello, and its next repetition with jitter: a whole fleet reconnects in the same second."""
        self._put_hello_off()
        self._publish(msgspec.structs.replace(self._hello(), nonce=self._channel.nonce()))

    def _put_hello_off(self) -> None:
        repeat_s = _ASKS_AGAIN_S.get(self.state)
        if repeat_s is None:
            repeat_s = self._hello_repeat_s
            self._hello_repeat_s = min(2.0 * repeat_s, LONGEST_HELLO_REPEAT_S)
        self._next_hello = self._clock() + repeat_s * self._rng.uniform(0.5, 1.5)

    def _follow(self, event: LinkEvent) -> None:
        if not LINK_TABLE.allows(self.state, event):
            logger.debug("%s means nothing while %s", event.value, self.state.value)
        self.state = LINK_TABLE.after(self.state, event)
