"""One connection to a broker: paho's client for it, what it says first, and what the kernel knows of its socket."""

from __future__ import annotations

import importlib.util
import select
import socket
import ssl
import struct
import sys
import time
import types
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.traffic.buffered_reading import BufferedReading
from tinyfleet.fedcore.tls.plaintext import refuse_far

PROXIES = "urllib.request"


def _leave_proxies_out() -> None:
    """Load paho without what it asks for proxies with: http, e-mail and compression, a megabyte of every agent.

    paho calls it for SOCKS alone: where that package is installed everything is loaded as usual.
    """
    if PROXIES in sys.modules or importlib.util.find_spec("socks") is not None:
        return
    sys.modules[PROXIES] = types.ModuleType(PROXIES)
    try:
        import paho.mqtt.client  # noqa: F401
    finally:
        del sys.modules[PROXIES]


_leave_proxies_out()

from paho.mqtt.client import Client, MQTTv5, MQTTv311  # noqa: E402
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode  # noqa: E402

__all__ = [
    "Client",
    "MQTTv5",
    "MQTTv311",
    "WatchedClient",
    "broker_address",
    "connect_properties",
    "first_answer",
    "socket_bytes",
    "subscribe_options",
]

# From the TCP connection to the end of TLS's handshake.
CONNECT_TIMEOUT_S = 10.0
# Publishes that the broker may send without an acknowledgement (MQTT 5). With the 20 that Mosquitto sends by itself
# what passes depends on how soon each is answered; of more than 1,000 that a socket does not take it drops some.
RECEIVE_MAXIMUM = 500
_FIRST_BYTES, _LOOK_MS = 16, 50
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


class WatchedClient(BufferedReading, Client):  # type: ignore[misc]  # paho is not typed for mypy here
    """paho's client of one connection; its network thread tells ``died`` of what error, and ``ended`` that it ends.

    paho lets that thread end, and goes on saying that it is connected. ``near``: to this machine alone.
    """

    def __init__(
        self,
        client_id: str,
        protocol: int,
        *,
        tls: ssl.SSLContext | None,
        near: bool,
        taken: Callable[[str, bytes, bool], None],
        died: Callable[[Exception], None],
        ended: Callable[[], None],
    ) -> None:
        clean = {} if protocol == MQTTv5 else {"clean_session": True}
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id, protocol=protocol, reconnect_on_failure=False, **clean
        )
        self.connect_timeout = CONNECT_TIMEOUT_S
        self.taken, self._died, self._ended = taken, died, ended
        if tls is not None:
            self.tls_set_context(tls)
        self._near = near
        self.on_socket_open = self._opened

    def _opened(self, client: Client, userdata: Any, sock: Any) -> None:
        # Nagle's algorithm would wait for delayed acknowledgements in every round trip.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._near:
            refuse_far(sock)

    def loop_forever(self, timeout: float = 1.0, retry_first_connection: bool = False) -> MQTTErrorCode:
        """What paho's thread runs."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except Exception as error:  # noqa: BLE001 - told
            self._died(error)
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self._ended()


def connect_properties(protocol: int, packet_bytes: int) -> Any:
    """MQTT 5: the broker is to send many publishes at a time, and to keep larger packets to itself.

    Nobody can fill this process's memory then.
    """
    if protocol != MQTTv5:
        return None
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = packet_bytes
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return properties


def subscribe_options(protocol: int) -> Any:
    """QoS 1, nothing retained where the broker may be asked for that."""
    if protocol != MQTTv5:
        return 1
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


def first_answer(sock: Any, timeout_s: float, stopping: Callable[[], bool]) -> bytes | None:
    """The first bytes that a plaintext socket has to read, which it keeps; empty: the other side has hung up.

    None where none came within ``timeout_s``, or until ``stopping``.
    """
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while not stopping() and time.monotonic() < deadline:
        if waiting.poll(_LOOK_MS):
            try:
                return bytes(sock.recv(_FIRST_BYTES, socket.MSG_PEEK))
            except OSError:
                return b""
    return None


def broker_address(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether by TLS. Raises ``ConfigError``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.username:
        raise ConfigError(f"broker URL {url!r}; give mqtt://HOST:PORT or mqtts://HOST:PORT without credentials")
    tls = parts.scheme == "mqtts"
    return parts.hostname, port or (8883 if tls else 1883), tls
