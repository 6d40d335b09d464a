"""What is known of one connection to a broker, how long to wait for the next, and paho's client for it."""

from __future__ import annotations

import importlib.util
import random
import socket
import struct
import sys
import types
from typing import Any
from urllib.parse import urlsplit

from tinyfleet.fedcore.errors import ConfigError

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

__all__ = [
    "Backoff",
    "Client",
    "MQTTv5",
    "MQTTv311",
    "broker_address",
    "connect_properties",
    "no_delay",
    "socket_bytes",
    "subscribe_options",
]

RECONNECT_BASE_S = 0.5
# A connection that stood for so long was no part of the trouble that comes after it.
STABLE_S = 60.0
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


def no_delay(client: Client, userdata: Any, sock: Any) -> None:
    """Nagle's algorithm would wait for delayed acknowledgements in every round trip."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connect_properties(protocol: int, most_bytes: int) -> Any:
    """MQTT 5: the broker is to keep larger packets to itself, so that nobody can fill this process's memory."""
    if protocol != MQTTv5:
        return None
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.CONNECT)
    properties.MaximumPacketSize = most_bytes
    return properties


def subscribe_options(client: Client) -> Any:
    """QoS 1; MQTT 5: nothing that is retained."""
    if client.protocol != MQTTv5:
        return 1
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
