"""The real transport: MQTT 5 where the broker offers it, else 3.1.1, on paho-mqtt.

Every connection is a new paho client with a clean session: paho queues without bound and resends
past its window after a reconnect, so nothing of an old connection may live on. What was not
acknowledged is simply lost; the application asks again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.messages import MAX_CHUNK_BYTES
from tinyfleet.fedcore.protocol.reach.announced import NO_LIMIT
from tinyfleet.fedcore.protocol.reach.backoff import STABLE_S, Backoff
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.reach.client import MQTTv5, MQTTv311, broker_address
from tinyfleet.fedcore.protocol.reach.connection import FAREWELL_S, BrokerAccess, BrokerConnection
from tinyfleet.fedcore.protocol.traffic.arrivals import Arrivals
from tinyfleet.fedcore.protocol.traffic.flood_watch import FloodWatch
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will
from tinyfleet.fedcore.tls.context import TlsFiles, client_context

log = logging.getLogger(__name__)

# A larger publish than any chunk with its frame, or message, is nobody's of ours.
MAX_PAYLOAD_BYTES = MAX_CHUNK_BYTES + 1024


class MqttTransport(Transport):
    """See ``Transport``. ``url`` is mqtt://HOST[:1883] or mqtts://HOST[:8883].

    ``window`` bounds unacknowledged publishes. Reconnects wait as ``Backoff`` says, ``reconnect_max_s`` at most.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` are PEM files, read again for every connection, so that a
    renewed certificate needs no restart; without ``tls_key`` the key stands in ``tls_cert``.
    Without ``plaintext`` an mqtt:// connection to another machine is ended before anything is said on it.
    Why the broker cannot be reached, or will not have us, is told as ``Disconnected``, once a cause.
    Raises ``ConfigError`` for a malformed URL or protocol, and for a TLS file that is missing or broken.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        username: str | None = None,
        password: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        plaintext: bool = False,
        window: int = 16,
        protocol: str = "auto",
        reconnect_max_s: float = 30.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host, port, tls = broker_address(url)
        if protocol not in ("auto", "5", "3.1.1"):
            raise ConfigError(f"MQTT protocol {protocol!r}; choose auto, 5 or 3.1.1")
        self._protocols = {"auto": [MQTTv5, MQTTv311], "5": [MQTTv5], "3.1.1": [MQTTv311]}[protocol]
        files = TlsFiles(tls_ca, tls_cert, tls_key)
        if tls:
            client_context(files)  # what is wrong with the files is said before any thread starts
        elif tls_cert or tls_key:
            raise ConfigError(
                f"broker URL {url!r} is plaintext, which takes no certificate; give mqtts://HOST:PORT"
            )
        self._access = BrokerAccess(
            host, port, files if tls else None, client_id, username, password, window, plaintext
        )
        self._backoff = Backoff(reconnect_max_s, rng or random.Random())
        self._clock = clock
        self._stood_at = 0.0
        self._told = ""  # the cause that the application knows of
        self._events = Arrivals()
        self._watch = FloodWatch()
        self._lock = threading.Lock()
        self._connection: BrokerConnection | None = None
        self._past = (0, 0)  # bytes of earlier connections
        self._fault: Cause | None = None  # of the last connection that never stood
        self._brief = 0  # connections in a row that were lost soon after they stood
        self._suspicion = f"does another client use the id {client_id!r}, or does the broker's log say why?"
        self._anew = False  # this side ended the connection to begin another
        self._closing = threading.Event()
        self._hurried = False
        self._thread: threading.Thread | None = None

    # -- the seam -----------------------------------------------------------------------

    def open(self, subscriptions: tuple[str, ...], will: Callable[[], Will] | None = None) -> None:
        self._subscriptions, self._will = subscriptions, will
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{self._access.client_id}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.hurry()
        self._closing.set()
        if (connection := self._connection) is not None:
            connection.close()
        if self._thread is not None:
            # Where it is still in the middle of connecting, it ends by itself, soon after.
            self._thread.join(2 * FAREWELL_S)

    def hurry(self) -> None:
        self._hurried = True

    @property
    def address(self) -> str:
        return self._access.address

    @property
    def connected(self) -> bool:
        return (connection := self._connection) is not None and connection.ready

    def publish(self, topic: str, payload: bytes, timeout: float = 30.0) -> None:
        if (connection := self._connection) is None:
            raise TransportError(f"not connected to the broker at {self.address}")
        connection.publish(topic, payload, timeout, lambda: self._hurried)

    @property
    def fault(self) -> str:
        """Why the last try to connect failed; empty while a connection stands, and before the first try ended."""
        return "" if self._fault is None else self._fault.reason

    @property
    def hindrance(self) -> Cause | None:
        return None if (connection := self._connection) is None else connection.hindrance

    def unheard(self, topic: str) -> bool:
        return (connection := self._connection) is not None and topic in connection.publishes.unheard

    def payload_bytes(self, topic: str) -> int | None:
        connection = self._connection
        if connection is None or connection.publishes.announced.packet_bytes >= NO_LIMIT:
            return None
        return connection.publishes.announced.payload_bytes(topic)

    def reconnect(self) -> None:
        if (connection := self._connection) is not None:
            self._anew = True
            connection.close()

    @property
    def window_free(self) -> int:
        return 0 if (connection := self._connection) is None else connection.window_free

    def receive(self, timeout: float | None) -> Event | None:
        event = self._events.get(timeout)
        if self._watch.due(now := self._clock()):
            self._look_at_floods(now)
        return event

    def favour(self, known: Callable[[str], bool]) -> None:
        self._events.favour(known)

    def _look_at_floods(self, now: float) -> None:
        self._events.tell_dropped(now)
        connection = self._connection
        if connection is not None and connection.ready and self._watch.over(connection.skipped, now):
            log.warning(
                "%d unconfirmed messages were skipped; connecting anew, to be heard again", connection.skipped
            )
            self.reconnect()

    @property
    def bytes_sent(self) -> int:
        return self._bytes()[0]

    @property
    def bytes_received(self) -> int:
        return self._bytes()[1]

    def _bytes(self) -> tuple[int, int]:
        with self._lock:
            past, connection = self._past, self._connection
        now = (0, 0) if connection is None else connection.bytes
        return past[0] + now[0], past[1] + now[1]

    # -- connections, one after another ---------------------------------------------------

    def _run(self) -> None:
        turn = 0
        while not self._closing.is_set():
            # MQTT 5 first; a broker that does not speak it ends the connection, and 3.1.1 is next.
            connection = self._live(self._protocols[turn % len(self._protocols)])
            if self._closing.is_set():
                return
            if connection.stood:
                self._tell_lost(connection.cause)
                self._closing.wait(self._backoff.wait_s(self._clock() - self._stood_at))
                continue
            self._fault, self._anew = connection.cause, False
            if not connection.settled:
                turn += 1
                if turn % len(self._protocols):
                    continue
            if self._fault is not None and self._fault.key != self._told:
                self._told = self._fault.key
                self._events.put(Disconnected(self._fault.reason, self._fault.kind))
            self._closing.wait(self._backoff.wait_s(0.0))

    def _live(self, protocol: int) -> BrokerConnection:
        """One connection from start to end. What breaks in here costs that connection, not this thread."""
        connection = BrokerConnection(
            self._access,
            protocol,
            self._subscriptions,
            self._will,
            packet_bytes=MAX_PAYLOAD_BYTES + 1024,  # the topic and the header
            stands=self._stands,
            received=self._received,
        )
        self._connection = connection
        if self._closing.is_set():
            return connection  # ``close`` may have come between
        try:
            connection.live()
        except Exception as error:  # noqa: BLE001 - logged with its traceback
            connection.died(error)
        with self._lock:
            sent, received = connection.bytes
            self._past = (self._past[0] + sent, self._past[1] + received)
            self._connection = None
        return connection

    def _tell_lost(self, cause: Cause | None) -> None:
        self._told = ""
        if self._anew:
            self._anew = False
            self._events.put(Disconnected("connecting again, from this side", None))
            return
        cause = cause or self._access.cause(CauseKind.LOST, "the broker ended the connection")
        brief = cause.kind is CauseKind.LOST and self._clock() - self._stood_at < STABLE_S
        self._brief = self._brief + 1 if brief else 0
        if self._brief > 1:
            # Mosquitto does not tell a client that its session was taken over.
            cause = Cause(cause.kind, f"{cause.reason}, {self._brief} times soon after it stood; {self._suspicion}")
        self._events.put(Disconnected(cause.reason, cause.kind))

    def _stands(self) -> None:
        self._fault, self._stood_at = None, self._clock()
        self._events.put(Connected())

    def _received(self, topic: str, payload: bytes, retained: bool) -> None:
        if not retained and len(payload) <= MAX_PAYLOAD_BYTES:  # nothing of ours is retained, or larger
            self._events.put(Received(topic, payload))
