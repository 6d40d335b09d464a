"""The real transport: MQTT 5 where the broker offers it, else 3.1.1, on paho-mqtt.

Every connection is a new paho client with a clean session: paho queues without bound and resends
past its window after a reconnect, so nothing of an old connection may live on. What was not
acknowledged is simply lost; the application asks again.
"""

from __future__ import annotations

import logging
import queue
import random
import socket
import struct
import threading
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.messages import MAX_CHUNK_BYTES
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
# From the TCP connection to the last subscription's acknowledgement: some brokers never answer a
# protocol version that they do not know.
HANDSHAKE_TIMEOUT_S = 5.0
RECONNECT_BASE_S = 0.5
# A larger publish than any chunk with its frame, or message, is nobody's of ours.
MAX_PAYLOAD_BYTES = MAX_CHUNK_BYTES + 1024
# What has arrived and waits to be handled. Beyond it publishes are dropped: whoever needs them asks again.
MAX_WAITING_BYTES = 64 << 20
MAX_WAITING = 20_000
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


class MqttTransport(Transport):
    """See ``Transport``. ``url`` is mqtt://HOST[:1883] or mqtts://HOST[:8883].

    ``window`` bounds unacknowledged publishes. Reconnects wait a random time up to a bound that
    doubles from 0.5 s to ``reconnect_max_s`` (full jitter).
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
    ) -> None:
        self._host, self._port, self._tls = _address(url)
        if protocol not in ("auto", "5", "3.1.1"):
            raise ConfigError(f"MQTT protocol {protocol!r}; choose auto, 5 or 3.1.1")
        self._protocols = {"auto": [MQTTv5, MQTTv311], "5": [MQTTv5], "3.1.1": [MQTTv311]}[protocol]
        self._client_id, self._window = client_id, window
        self._username, self._password, self._tls_ca = username, password, tls_ca
        self._reconnect_max_s = reconnect_max_s
        self._rng = rng or random.Random()
        self._events: queue.Queue[Event] = queue.Queue()
        self._waiting_bytes = 0  # of the publishes among them
        self._dropped = 0  # publishes, since there was no room for them
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
            self._thread.join(CONNECT_TIMEOUT_S)

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
            event = self._events.get(timeout != 0.0, timeout)
        except queue.Empty:
            return None
        if isinstance(event, Received):
            with self._changed:
                self._waiting_bytes -= len(event.payload)
                dropped, self._dropped = (0, self._dropped) if self._waiting_bytes else (self._dropped, 0)
            if dropped:
                log.warning("%d messages were dropped: they came faster than they are handled", dropped)
        return event

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
        failures, turn = 0, 0
        while not self._closing.is_set():
            # MQTT 5 first; a broker that does not speak it ends the connection, and 3.1.1 is next.
            protocol = self._protocols[turn % len(self._protocols)]
            stood = self._connection(protocol)
            if self._closing.is_set():
                return
            if stood:
                failures = 0
                self._events.put(Disconnected(self._reason))
            else:
                turn += 1
            if stood or turn % len(self._protocols) == 0:
                bound = min(self._reconnect_max_s, RECONNECT_BASE_S * 2.0 ** min(failures, 20))
                failures += 1
                self._closing.wait(self._rng.uniform(0.0, bound))

    def _connection(self, protocol: int) -> bool:
        """One connection from start to end; True if it ever stood with all subscriptions."""
        client = self._current = self._new_client(protocol)
        self._ended.clear()
        self._reason = "connection lost"
        try:
            client.connect(self._host, self._port, KEEPALIVE_S, properties=_connect_properties(protocol))
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
        client.disconnect()
        client.loop_stop()
        with self._changed:
            self._client = None
        return stood

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
            self._reason = f"the broker refused the connection: {reason}"
            # MQTT 5 was a question: the answer no is no news while 3.1.1 is still to be tried.
            level = logging.DEBUG if client.protocol == MQTTv5 and len(self._protocols) > 1 else logging.WARNING
            log.log(level, "%s:%d: %s", self._host, self._port, self._reason)
            self._end()
        elif self._subscriptions:
            client.subscribe([(topic, _subscribe_options(client)) for topic in self._subscriptions])
        else:
            self._stand(client)

    def _on_subscribe(self, client: Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._reason = f"the broker refused a subscription: {refused[0]}; check its access list"
            log.warning("%s:%d: %s", self._host, self._port, self._reason)
            self._end()
        else:
            self._stand(client)

    def _stand(self, client: Client) -> None:
        with self._changed:
            if client is not self._current:
                return
            self._ready, self._stood = True, True
            self._changed.notify_all()
        self._events.put(Connected())

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._reason = f"connection lost: {reason}"
        if client is self._current:
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended.set()
            self._changed.notify_all()

    def _on_message(self, client: Client, userdata: Any, message: Any) -> None:
        if message.retain or len(message.payload) > MAX_PAYLOAD_BYTES:
            return  # nothing of ours is retained
        size = len(message.payload)
        with self._changed:
            if self._waiting_bytes + size > MAX_WAITING_BYTES or self._events.qsize() >= MAX_WAITING:
                self._dropped += 1
                return
            self._waiting_bytes += size
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


def _connect_properties(protocol: int) -> Any:
    """MQTT 5: the broker is to keep larger packets to itself, so that nobody can fill this process's memory."""
    if protocol != MQTTv5:
        return None
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = MAX_PAYLOAD_BYTES + 1024  # the topic and the header
    return properties


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
