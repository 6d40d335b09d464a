"""One connection to a broker, from its first packet to its end, and why it ended."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paho.mqtt.enums import MQTTErrorCode

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.reach import causes
from tinyfleet.fedcore.protocol.reach.announced import Announced
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.reach.client import (
    WatchedClient,
    connect_properties,
    first_answer,
    socket_bytes,
    subscribe_options,
)
from tinyfleet.fedcore.protocol.reach.publishes import Publishes
from tinyfleet.fedcore.protocol.transport import Will
from tinyfleet.fedcore.tls.context import TellingContext, TlsFiles, client_context
from tinyfleet.fedcore.tls.faults import explain, hung_up_unheard

log = logging.getLogger(__name__)

KEEPALIVE_S = 30
# From the TCP connection to the last subscription's acknowledgement: some brokers never answer a
# protocol version that they do not know.
HANDSHAKE_TIMEOUT_S = 5.0
# A broker that hangs takes no DISCONNECT: its socket is shut after this. Who closes waits twice as long at most.
FAREWELL_S = 0.5
# How soon it is noticed that what answers through TLS is no broker.
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """Where the broker is, and who this client is to it. ``tls`` None: plaintext."""

    host: str
    port: int
    tls: TlsFiles | None
    client_id: str
    username: str | None
    password: str | None
    window: int
    plaintext: bool = False  # also to another machine

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def cause(self, kind: CauseKind, why: str) -> Cause:
        """``why`` with the broker's address before it."""
        return Cause(kind, f"{self.address}: {why}")


class BrokerConnection:
    """Lives once. ``stands`` is called when all subscriptions are acknowledged, ``received`` with each publish.

    Both are called in the network's thread; ``received`` with topic, payload, and whether it was retained.
    ``packet_bytes``: the largest packet that is taken (MQTT 5).
    """

    def __init__(
        self,
        access: BrokerAccess,
        protocol: int,
        subscriptions: tuple[str, ...],
        will: Callable[[], Will] | None,
        *,
        packet_bytes: int,
        stands: Callable[[], None],
        received: Callable[[str, bytes, bool], None],
    ) -> None:
        self._access, self._protocol = access, protocol
        self._subscriptions, self._will, self._packet_bytes = subscriptions, will, packet_bytes
        self._stands, self._received = stands, received
        self.cause: Cause | None = None  # the first one counts: what follows comes of it
        self.settled = False  # that cause is none of the protocol's version
        self.stood = self.ready = False
        self._changed = threading.Condition()
        self.publishes = Publishes(access.address, access.window, self._changed)
        self._over = self._closing = self._answered = False
        self._tls: TellingContext | None = None
        self._client: WatchedClient | None = None  # while its socket is open
        self._past = (0, 0)  # bytes of the socket, once it is closed

    # -- its life ---------------------------------------------------------------------------

    def live(self) -> None:
        """Connect, subscribe, and wait for the end, which ``cause`` explains where it was not asked for."""
        access = self._access
        try:
            self._tls = None if access.tls is None else client_context(access.tls)
        except ConfigError as error:  # a file that was there at the start is gone, or half written
            self._because(CauseKind.FILES, str(error), settled=True)
            return
        client = self._made()
        try:
            client.connect(
                access.host,
                access.port,
                KEEPALIVE_S,
                properties=connect_properties(self._protocol, self._packet_bytes),
            )
        except (OSError, ValueError) as error:
            self._blame_unreached(error)
            return
        deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        with self._changed:
            self._client = client
        speaks = self._speaks_mqtt(client)
        client.loop_start()
        with self._changed:
            while speaks and not self.stood and not self._over and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(min(left, _LOOK_S))
                speaks = self._tls is None or causes.foreign(self._tls.heard) is None
            if self.stood:
                self._changed.wait_for(lambda: self._over)
            self.ready, hung_up = False, self._over
            self._changed.notify_all()
        if not self.stood and not self._closing:
            self._blame(hung_up=hung_up)
        self._leave(client)

    def close(self) -> None:
        """End it; ``live`` returns soon."""
        with self._changed:
            self._closing, self.ready = True, False
            client = self._client
        if client is not None:
            client.disconnect()
        self._end()

    def died(self, error: Exception) -> None:
        """Something in here broke: it costs this connection."""
        log.error("the connection to %s broke what handles it", self._access.address, exc_info=error)
        self._because(
            CauseKind.DEFECT, f"this program broke on what came from it ({error!r}); report the traceback"
        )
        self._end()

    def _made(self) -> WatchedClient:
        access = self._access
        client = WatchedClient(
            access.client_id,
            self._protocol,
            tls=self._tls,
            near=access.tls is None and not access.plaintext,
            taken=self._received,
            died=self.died,
            ended=self._end,
        )
        client.max_inflight_messages_set(0)  # the window is ours: for what is lost paho would wait for ever
        if access.username:
            client.username_pw_set(access.username, access.password)
        if self._will is not None:
            will = self._will()
            client.will_set(will.topic, will.payload, qos=1, retain=False)
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        return client

    def _leave(self, client: WatchedClient) -> None:
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

    # -- what is sent -----------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, timeout: float, hurried: Callable[[], bool]) -> None:
        """See ``Transport.publish``; waits no longer once ``hurried``."""
        if self.publishes.forget_lost() and (client := self._client) is not None:
            client.drop_out_messages()
        try:
            self.publishes.begin(topic, len(payload), timeout, stands=lambda: self.ready, hurried=hurried)
        except TransportError:
            if self.publishes.deaf and (client := self._client) is not None:
                self._because(CauseKind.SILENT, "the broker acknowledges nothing any more; is it overloaded?")
                client.disconnect()
            raise
        client, packet_id = self._client, None
        try:
            if client is None:
                raise TransportError(f"not connected to the broker at {self._access.address}")
            info = client.publish(topic, payload, qos=1)
            if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise TransportError(f"the publish was refused before it was sent: {info.rc.name}")
            packet_id = info.mid
        finally:
            self.publishes.sent(topic, len(payload), packet_id)

    @property
    def skipped(self) -> int:
        """Publishes of QoS 0 that were not read: nothing of ours is sent so."""
        client = self._client
        return 0 if client is None else client.skipped

    @property
    def window_free(self) -> int:
        """How many publishes would not wait now."""
        return self.publishes.free if self.ready else 0

    @property
    def hindrance(self) -> Cause | None:
        """What keeps publishes back on a connection that stands."""
        with self._changed:
            refused = next(iter(self.publishes.refused.values()), None)
        return None if refused is None else self._access.cause(*refused)

    @property
    def bytes(self) -> tuple[int, int]:
        """(sent, received) through its socket."""
        with self._changed:
            return self._past if self._client is None else socket_bytes(self._client.socket())

    # -- why it ended -----------------------------------------------------------------------

    def _because(self, kind: CauseKind, why: str, *, settled: bool = False) -> None:
        if self.cause is None:
            self.cause, self.settled = self._access.cause(kind, why), settled

    def _blame_unreached(self, error: Exception) -> None:
        tls = self._access.tls
        if tls is not None and self._tls is not None:
            noted = self._tls.fault
            if isinstance(noted, TimeoutError):
                self._because(
                    CauseKind.SILENT, "it takes connections, and does not answer TLS; is it a broker, or hung?"
                )
            elif why := explain(self._tls, tls, error if isinstance(error, OSError) else None):
                self._because(CauseKind.TLS, why, settled=True)
        self._because(*causes.unreachable(error), settled=True)

    def _blame(self, *, hung_up: bool) -> None:
        """A connection that never stood, where the broker gave no reason in MQTT."""
        tls = self._access.tls
        if tls is not None and self._tls is not None:
            if why := explain(self._tls, tls):
                self._because(CauseKind.TLS, why, settled=True)
            elif found := causes.foreign(self._tls.heard):
                self._because(*found, settled=True)
        if self._answered:
            self._because(CauseKind.SILENT, "it does not answer the subscription; is it hung, or overloaded?")
        elif hung_up:
            self._because(CauseKind.TLS, hung_up_unheard(tls))
        else:
            self._because(
                CauseKind.SILENT, "it takes connections, and does not answer; is it an MQTT broker, or hung?"
            )

    def _speaks_mqtt(self, client: WatchedClient) -> bool:
        """False where something else answers, or nothing; of TLS that is known afterwards."""
        if self._tls is not None:
            return True
        first = first_answer(client.socket(), HANDSHAKE_TIMEOUT_S, lambda: self._closing)
        if first and (found := causes.foreign(first)):
            self._because(*found, settled=True)
            return False
        return first is not None

    # -- paho's callbacks, in its thread ----------------------------------------------------

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._answered = True
        said = str(reason)
        if reason.is_failure:
            tls = self._access.tls
            certificate = tls is not None and tls.certificate is not None
            found = causes.connection_refused(said, username=self._access.username, certificate=certificate)
            self._because(*found, settled=said != "Unsupported protocol version")
            self._end()
            return
        self.publishes.announced = announced = Announced.of(properties)
        if announced.qos < 1:
            self._because(CauseKind.REFUSED, "the broker takes QoS 0 alone; let it take QoS 1", settled=True)
            self._end()
        elif self._subscriptions:
            options = subscribe_options(self._protocol)
            client.subscribe([(topic, options) for topic in self._subscriptions])
        else:
            self._stand()

    def _on_subscribe(self, client: Any, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        for topic, reason in zip(self._subscriptions, reasons, strict=False):
            if reason.is_failure:
                self._because(*causes.subscription_refused(str(reason), topic), settled=True)
                self._end()
                return
        client.confirmed_only = all(reason.value == 1 for reason in reasons)
        self._stand()

    def _stand(self) -> None:
        with self._changed:
            if self._over or self._closing:
                return
            self.ready = self.stood = True
            self._stands()
            self._changed.notify_all()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        if reason.is_failure and (by_broker or self.stood) and not self._closing:
            found = causes.ended(
                str(reason),
                by_broker=by_broker,
                client_id=self._access.client_id,
                unanswered_bytes=self.publishes.largest,
            )
            self._because(*found, settled=True)
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self.ready = False
            self._changed.notify_all()

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # nothing of ours
        if message.qos or not client.confirmed_only:
            self._received(topic, bytes(message.payload), bool(message.retain))

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        self.publishes.acknowledged(mid, reason)

    def _on_socket_close(self, client: Any, userdata: Any, sock: Any) -> None:
        past = socket_bytes(sock)
        with self._changed:
            self._past, self._client, self.ready = past, None, False
            self._changed.notify_all()
