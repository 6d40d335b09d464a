"""The real transport: MQTT 5 where the broker offers it, else 3.1.1, on paho-mqtt.

Every connection is a new paho client with a clean session: paho queues without bound and resends
past its window after a reconnect, so nothing of an old connection may live on. What was not
acknowledged is simply lost; the application asks again.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.connection import (
    Backoff,
    Client,
    MQTTv5,
    MQTTv311,
    broker_address,
    connect_properties,
    no_delay,
    socket_bytes,
    subscribe_options,
)
from tinyfleet.fedcore.protocol.messages import MAX_CHUNK_BYTES
from tinyfleet.fedcore.protocol.traffic.arrivals import Arrivals
from tinyfleet.fedcore.protocol.traffic.buffered_client import BufferedClient
from tinyfleet.fedcore.protocol.traffic.flood_watch import FloodWatch
from tinyfleet.fedcore.protocol.traffic.publish_window import PublishWindow
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will
from tinyfleet.fedcore.tls.context import TellingContext, TlsFiles, client_context
from tinyfleet.fedcore.tls.faults import explain, hung_up_unheard

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
CONNECT_TIMEOUT_S = 10.0
# From the TCP connection to the last subscription's acknowledgement: some brokers never answer a
# protocol version that they do not know.
HANDSHAKE_TIMEOUT_S = 5.0
# A broker that hangs takes no DISCONNECT: its socket is shut after this. Who closes waits twice as long at most.
FAREWELL_S = 0.5
# A larger publish than any chunk with its frame, or message, is nobody's of ours.
MAX_PAYLOAD_BYTES = MAX_CHUNK_BYTES + 1024
MAX_PACKET_BYTES = MAX_PAYLOAD_BYTES + 1024  # the topic and the header


class MqttTransport(Transport):
    """See ``Transport``. ``url`` is mqtt://HOST[:1883] or mqtts://HOST[:8883].

    ``window`` bounds unacknowledged publishes. Reconnects wait as ``Backoff`` says, ``reconnect_max_s`` at most.

    ``tls_ca``, ``tls_cert`` and ``tls_key`` are PEM files, read again for every connection, so that a
    renewed certificate needs no restart; without ``tls_key`` the key stands in ``tls_cert``.
    Why the broker cannot be reached for a fault of TLS, or will not have us, is told as ``Disconnected``, once a
    reason. Raises ``ConfigError`` for a malformed URL or protocol, and for a TLS file that is missing or broken.
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
        window: int = 16,
        protocol: str = "auto",
        reconnect_max_s: float = 30.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._port, self._tls = broker_address(url)
        if protocol not in ("auto", "5", "3.1.1"):
            raise ConfigError(f"MQTT protocol {protocol!r}; choose auto, 5 or 3.1.1")
        self._protocols = {"auto": [MQTTv5, MQTTv311], "5": [MQTTv5], "3.1.1": [MQTTv311]}[protocol]
        self._client_id, self._window = client_id, PublishWindow(window, clock)
        self._username, self._password = username, password
        self._tls_files = TlsFiles(tls_ca, tls_cert, tls_key)
        if self._tls:
            client_context(self._tls_files)  # what is wrong with the files is said before any thread starts
        elif tls_cert or tls_key:
            raise ConfigError(
                f"broker URL {url!r} is plaintext, which takes no certificate; give mqtts://HOST:PORT"
            )
        self._tls_context: TellingContext | None = None  # of the present connection
        self._backoff = Backoff(reconnect_max_s, rng or random.Random())
        self._clock = clock
        self._stood_at = 0.0
        self._told = ""  # the broker's refusal that the application knows of
        self._events = Arrivals()
        self._watch = FloodWatch()
        self._changed = threading.Condition()
        self._current: Client | None = None  # of the present connection; callbacks of older ones are ignored
        self._client: Client | None = None  # the same while its socket is open
        self._ready = False
        self._ended = threading.Event()  # the present connection is over
        self._reason = ""
        self._fault = ""  # of the last connection that never stood
        self._answered = False  # the broker answered the present connection
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
            free = self._wait_for_room(timeout)
            if not self._ready or self._client is None:
                raise TransportError(f"not connected to the broker at {self._host}:{self._port}")
            if not free:
                raise TransportError(
                    f"the broker at {self._host}:{self._port} acknowledged none of {self._window.size} publishes "
                    f"within {timeout:g} s"
                )
            client = self._client
            self._window.published()
        info = client.publish(topic, payload, qos=1)
        if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._acknowledged(client)
            raise TransportError(f"the publish was refused before it was sent: {info.rc.name}")

    def _wait_for_room(self, timeout: float) -> bool:
        """True once the window has room. Of a broker that acknowledges nothing for long nothing more will come."""
        if self._window.lost and not self._window.full and self._client is not None:
            self._client.drop_out_messages()
            self._window.clear()
        end = self._clock() + timeout
        while self._ready and self._window.full and (left := end - self._clock()) > 0:
            if self._window.lost and self._client is not None:
                log.warning("%s:%d acknowledges nothing any more; connecting anew", self._host, self._port)
                self._client.disconnect()
                return False
            self._changed.wait(min(left, 0.5))
        return not self._window.full

    @property
    def fault(self) -> str:
        """Why the last try to connect failed; empty while a connection stands, and before the first try ended."""
        return self._fault

    def reconnect(self) -> None:
        """End the connection and open the next soon, with the TLS files as they are now."""
        with self._changed:
            client = self._client
        if client is not None:
            client.disconnect()

    @property
    def window_free(self) -> int:
        return max(0, self._window.size - self._window.under_way) if self._ready else 0

    def receive(self, timeout: float | None) -> Event | None:
        event = self._events.get(timeout)
        if self._watch.due(now := self._clock()):
            self._look_at_floods(now)
        return event

    def _look_at_floods(self, now: float) -> None:
        self._events.tell_dropped(now)
        client = self._client
        if client is not None and self._watch.over(client.skipped, now):
            log.warning("%d unconfirmed messages were skipped; connecting anew, to be heard again", client.skipped)
            client.disconnect()

    def favour(self, known: Callable[[str], bool]) -> None:
        self._events.favour(known)

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
        """A broker that is there and will not have us: said once, and again where the reason is another."""
        why = self._fault or self._reason
        if why and why != self._told:
            log.warning("%s:%d: %s", self._host, self._port, why)
            self._events.put(Disconnected(why))
        self._told = why

    def _connection(self, protocol: int) -> bool:
        """One connection from start to end; True if it ever stood with all subscriptions."""
        self._ended.clear()
        self._reason, self._answered = "", False
        try:
            client = self._current = self._new_client(protocol)
        except ConfigError as error:  # a file that was there at the start is gone, or half written
            self._fault = str(error)
            return False
        try:
            properties = connect_properties(protocol, MAX_PACKET_BYTES)
            client.connect(self._host, self._port, KEEPALIVE_S, properties=properties)
        except (OSError, ValueError) as error:
            log.debug("cannot reach %s:%d: %s", self._host, self._port, error)
            self._fault = self._blamed(error if isinstance(error, OSError) else None)
            return False
        with self._changed:
            self._client = client
            self._window.clear()
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._stood or self._ended.is_set(), HANDSHAKE_TIMEOUT_S)
        if self._stood:
            self._ended.wait()
        with self._changed:
            stood, self._ready = self._stood, False
            hung_up = self._ended.is_set()
            self._changed.notify_all()
        if not stood:
            unheard = hung_up and not self._answered and not self._closing.is_set()
            self._fault = self._blamed(None, unheard=unheard)
        self._leave(client)
        with self._changed:
            self._client = None
        return stood

    def _blamed(self, error: OSError | None, *, unheard: bool = False) -> str:
        """What TLS, or the lack of it, has to do with a connection that never stood; else empty."""
        why = "" if self._tls_context is None else explain(self._tls_context, self._tls_files, error)
        if not why and unheard:
            why = hung_up_unheard(self._tls_files if self._tls else None)
        return f"{self._host}:{self._port}: {why}" if why else ""

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
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            protocol=protocol,
            reconnect_on_failure=False,
            **clean,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the window is ours: of what is lost paho would wait for ever
        if self._username:
            client.username_pw_set(self._username, self._password)
        if self._tls:
            self._tls_context = client_context(self._tls_files)
            client.tls_set_context(self._tls_context)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=False)
        self._stood = False
        client.on_socket_open = no_delay
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    # -- paho's callbacks, in its thread ----------------------------------------------------

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        if reason.is_failure:
            # No news yet: MQTT 5 was a question while 3.1.1 is still to be tried.
            self._because(client, f"the broker refused the connection: {reason}")
            self._end()
        elif self._subscriptions:
            client.subscribe([(topic, subscribe_options(client)) for topic in self._subscriptions])
        else:
            self._stand(client)

    def _on_subscribe(self, client: Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._because(client, f"the broker refused a subscription: {refused[0]}; check its access list")
            self._end()
        else:
            client.confirmed_only = all(reason.value == 1 for reason in reasons)
            self._stand(client)

    def _stand(self, client: Client) -> None:
        with self._changed:
            if client is not self._current:
                return
            self._ready, self._stood, self._fault = True, True, ""
            self._stood_at = self._clock()
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
        if client.confirmed_only and not message.qos:
            return
        self._events.put(Received(message.topic, bytes(message.payload)))

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refused a publish: %s; check its access list", reason)
        self._acknowledged(client)

    def _acknowledged(self, client: Client) -> None:
        with self._changed:
            if client is self._current:
                self._window.acknowledged()
                self._changed.notify_all()

    def _on_socket_close(self, client: Client, userdata: Any, sock: Any) -> None:
        sent, received = socket_bytes(sock)
        with self._changed:
            self._past = (self._past[0] + sent, self._past[1] + received)
            if client is self._current:
                self._client = None
                self._ready = False
                self._changed.notify_all()
