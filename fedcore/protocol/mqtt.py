"""The real transport: MQTT 5 where the broker offers it, else 3.1.1, on paho-mqtt.

Every connection is a new paho client with a clean session: paho queues without bound and resends
past its window after a reconnect, so nothing of an old connection may live on. What was not
acknowledged is simply lost; the application asks again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
# From the TCP connection to the last subscription's acknowledgement: some brokers never answer a
# protocol version that they do not know.
HANDSHAKE_TIMEOUT_S = 5.0
RECONNECT_BASE_S = 0.5
# A connection that stood for so long was no part of the trouble that comes after it.
STABLE_S = 60.0
# A broker that hangs takes no DISCONNECT: its socket is shut after this. Who closes waits twice as long at most.
FAREWELL_S = 0.5
# A larger publish than any chunk or message is nobody's of ours.
MAX_PAYLOAD_BYTES = 16 << 20
# struct tcp_info of Linux: bytes_received since 4.1, bytes_sent since 4.19.
_TCP_INFO_BYTES = 232
_BYTES_RECEIVED_AT, _BYTES_SENT_AT = 128, 200


def socket_bytes(sock: Any) -> tuple[int, int]:
    """(sent, received) of a TCP socket by the kernel's count, retransmissions and TLS included.

    (0, 0) where the kernel does not tell.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except (OSError, AttributeError):
        return 0, 0
    if len(info) < _BYTES_SENT_AT + 8:
        return 0, 0
    sent: int = struct.unpack_from("=Q", info, _BYTES_SENT_AT)[0]
    received: int = struct.unpack_from("=Q", info, _BYTES_RECEIVED_AT)[0]
    return sent, received


class Backoff:
    """Full jitter: a random wait up to a bound that doubles from 0.5 s to ``longest_s``.

    Only a connection that stood for ``STABLE_S`` takes the bound back: two clients that take a session over from
    each other stand for a moment each time.
    """

    def __init__(self, longest_s: float, rng: random.Random) -> None:
        self._longest_s, self._rng = longest_s, rng
        self._failures = 0

    def wait_s(self, stood_s: float) -> float:
        """How long to wait after a connection that stood for ``stood_s`` seconds, 0 where it never did."""
        if stood_s >= STABLE_S:
            self._failures = 0
        bound = min(self._longest_s, RECONNECT_BASE_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return self._rng.uniform(0.0, bound)


class MqttTransport(Transport):
    """See ``Transport``. ``url`` is mqtt://HOST[:1883] or mqtts://HOST[:8883].

    ``window`` bounds unacknowledged publishes. Reconnects wait as ``Backoff`` says, ``reconnect_max_s`` at most.
    Raises ``ConfigError`` for a malformed URL or protocol.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        *,
        username: str | None = None,
        password: str | None = None,
        tls_ca: str | None = None,
        window: int = 16,
        protocol: str = "auto",
        reconnect_max_s: float = 30.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port, self._tls = _address(url)
        if protocol not in ("auto", "5", "3.1.1"):
            raise ConfigError(f"MQTT protocol {protocol!r}; choose auto, 5 or 3.1.1")
        self._protocols = {"auto": [MQTTv5, MQTTv311], "5": [MQTTv5], "3.1.1": [MQTTv311]}[protocol]
        self._client_id, self._window = client_id, window
        self._username, self._password, self._tls_ca = username, password, tls_ca
        self._backoff = Backoff(reconnect_max_s, rng or random.Random())
        self._clock = clock
        self._stood_at = 0.0
        self._told = ""  # the broker's refusal that the application knows of
        self._events: queue.Queue[Event] = queue.Queue()
        self._changed = threading.Condition()
        self._current: Client | None = None  # of the present connection; callbacks of older ones are ignored
        self._client: Client | None = None  # the same while its socket is open
        self._ready = False
        self._ended = threading.Event()  # the present connection is over
        self._reason = ""
        self._in_flight = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._past = (0, 0)  # bytes of closed connections

    # -- the seam -----------------------------------------------------------------------

    def open(self, subscriptions: tuple[str, ...], will: Will | None = None) -> None:
        self._subscriptions, self._will = subscriptions, will
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{self._client_id}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            client, self._ready = self._client, False
            self._changed.notify_all()
        if client is not None:
            client.disconnect()
        self._end()
        if self._thread is not None:
            # Where it is still in the middle of connecting, it ends by itself, soon after.
            self._thread.join(2 * FAREWELL_S)

    @property
    def connected(self) -> bool:
        return self._ready

    def publish(self, topic: str, payload: bytes, timeout: float = 30.0) -> None:
        with self._changed:
            free = self._changed.wait_for(lambda: not self._ready or self._in_flight < self._window, timeout)
            if not self._ready or self._client is None:
                raise TransportError(f"not connected to the broker at {self._host}:{self._port}")
            if not free:
                raise TransportError(
                    f"the broker at {self._host}:{self._port} acknowledged none of {self._window} publishes "
                    f"within {timeout:g} s"
                )
            client = self._client
            self._in_flight += 1
        info = client.publish(topic, payload, qos=1)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._acknowledged(client)
            raise TransportError(f"the publish was refused before it was sent: {info.rc.name}")

    @property
    def window_free(self) -> int:
        return self._window - self._in_flight if self._ready else 0

    def receive(self, timeout: float | None) -> Event | None:
        try:
            return self._events.get(timeout != 0.0, timeout)
        except queue.Empty:
            return None

    @property
    def bytes_sent(self) -> int:
        return self._bytes()[0]

    @property
    def bytes_received(self) -> int:
        return self._bytes()[1]

    def _bytes(self) -> tuple[int, int]:
        with self._changed:
            client, past = self._client, self._past
            now = socket_bytes(client.socket()) if client is not None else (0, 0)
        return past[0] + now[0], past[1] + now[1]

    # -- connections, one after another ---------------------------------------------------

    def _run(self) -> None:
        turn = 0
        while not self._closing.is_set():
            # MQTT 5 first; a broker that does not speak it ends the connection, and 3.1.1 is next.
            protocol = self._protocols[turn % len(self._protocols)]
            stood = self._connection(protocol)
            if self._closing.is_set():
                return
            if stood:
                self._told = ""
                self._events.put(Disconnected(self._reason or "connection lost"))
            else:
                turn += 1
            if stood or turn % len(self._protocols) == 0:
                if not stood:
                    self._tell_refusal()
                self._closing.wait(self._backoff.wait_s(self._clock() - self._stood_at if stood else 0.0))

    def _tell_refusal(self) -> None:
        """A broker that is there and will not have us: said once, and again where it says something else."""
        if self._reason and self._reason != self._told:
            log.warning("%s:%d: %s", self._host, self._port, self._reason)
            self._events.put(Disconnected(self._reason))
        self._told = self._reason

    def _connection(self, protocol: int) -> bool:
        """One connection from start to end; True if it ever stood with all subscriptions."""
        client = self._current = self._new_client(protocol)
        self._ended.clear()
        self._reason = ""
        try:
            client.connect(self._host, self._port, KEEPALIVE_S)
        except (OSError, ValueError) as error:
            log.debug("cannot reach %s:%d: %s", self._host, self._port, error)
            return False
        with self._changed:
            self._client, self._in_flight = client, 0
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._stood or self._ended.is_set(), HANDSHAKE_TIMEOUT_S)
        if self._stood:
            self._ended.wait()
        with self._changed:
            stood, self._ready = self._stood, False
            self._changed.notify_all()
        self._leave(client)
        with self._changed:
            self._client = None
        return stood

    def _leave(self, client: Client) -> None:
        """Say goodbye; where the broker takes nothing any more, shut the socket, which ends paho's thread."""
        client.disconnect()
        with self._changed:
            self._changed.wait_for(lambda: self._client is None, FAREWELL_S)
        sock: Any = client.socket()
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would wait for the other side.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        client.loop_stop()

    def _new_client(self, protocol: int) -> Client:
        clean = {} if protocol == MQTTv5 else {"clean_session": True}
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            protocol=protocol,
            reconnect_on_failure=False,
            **clean,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(self._window)
        if self._username:
            client.username_pw_set(self._username, self._password)
        if self._tls:
            client.tls_set(ca_certs=self._tls_ca)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=False)
        self._stood = False
        client.on_socket_open = _no_delay
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # -- paho's callbacks, in its thread ----------------------------------------------------

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            # No news yet: MQTT 5 was a question while 3.1.1 is still to be tried.
            self._because(client, f"the broker refused the connection: {reason}")
            self._end()
        elif self._subscriptions:
            client.subscribe([(topic, _subscribe_options(client)) for topic in self._subscriptions])
        else:
            self._stand(client)

    def _on_subscribe(self, client: Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._because(client, f"the broker refused a subscription: {refused[0]}; check its access list")
            self._end()
        else:
            self._stand(client)

    def _stand(self, client: Client) -> None:
        with self._changed:
            if client is not self._current:
                return
            self._ready, self._stood, self._stood_at = True, True, self._clock()
            self._changed.notify_all()
        self._events.put(Connected())

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            by = "the broker ended the connection" if flags.is_disconnect_packet_from_server else "connection lost"
            self._because(client, f"{by}: {reason}")
        if client is self._current:
            self._end()

    def _because(self, client: Client, reason: str) -> None:
        """Why the present connection ends: the first reason counts, what follows comes of it."""
        if client is self._current and not self._reason:
            self._reason = reason

    def _end(self) -> None:
        with self._changed:
            self._ended.set()
            self._changed.notify_all()

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        if message.retain or len(message.payload) > MAX_PAYLOAD_BYTES:
            return  # nothing of ours is retained
        self._events.put(Received(message.topic, bytes(message.payload)))

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refused a publish: %s; check its access list", reason)
        self._acknowledged(client)

    def _acknowledged(self, client: Client) -> None:
        with self._changed:
            if client is self._current and self._in_flight:
                self._in_flight -= 1
                self._changed.notify_all()

    def _on_socket_close(self, client: Client, userdata: Any, sock: Any) -> None:
        sent, received = socket_bytes(sock)
        with self._changed:
            self._past = (self._past[0] + sent, self._past[1] + received)
            if client is self._current:
                self._client = None
                self._ready = False
                self._changed.notify_all()


def _no_delay(client: Client, userdata: Any, sock: Any) -> None:
    # Nagle's algorithm and delayed acknowledgements cost 88 ms a round trip.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _subscribe_options(client: Client) -> Any:
    if client.protocol != MQTTv5:
        return 1
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


def _address(url: str) -> tuple[str, int, bool]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.username:
        raise ConfigError(f"broker URL {url!r}; give mqtt://HOST:PORT or mqtts://HOST:PORT without credentials")
    tls = parts.scheme == "mqtts"
    return parts.hostname, port or (8883 if tls else 1883), tls
