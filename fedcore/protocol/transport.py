"""The transport seam: publish, receive, presence. ``mqtt`` is real, ``loop`` lives in one process.

Everything arrives through ``receive`` in the caller's own thread, connection changes included, so
agent and coordinator are single-threaded state machines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Received:
    """One publish. Duplicates happen (QoS 1)."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection stands and all subscriptions are acknowledged."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or a broker that is there refused it; the transport keeps trying until ``close``.

    ``reason`` has the broker's own words where it gave any.
    """

    reason: str


Event: TypeAlias = Received | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class Will:
    """Published by the broker when this client vanishes without a clean close. Never retained."""

    topic: str
    payload: bytes


class Transport(ABC):
    """At-least-once publish and subscribe. Nothing published is proof of delivery: the application acknowledges."""

    @abstractmethod
    def open(self, subscriptions: tuple[str, ...], will: Will | None = None) -> None:
        """Start connecting in the background, for ever, with full jitter between tries. Does not block."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect cleanly (the will is not sent). May be called twice."""

    @property
    @abstractmethod
    def connected(self) -> bool: ...

    @abstractmethod
    def publish(self, topic: str, payload: bytes, timeout: float = 30.0) -> None:
        """QoS 1. Blocks while the window of unacknowledged publishes is full.

        Raises ``TransportError`` when not connected or when the window stays full for ``timeout`` seconds.
        """

    @property
    @abstractmethod
    def window_free(self) -> int:
        """How many publishes would not block now."""

    @abstractmethod
    def receive(self, timeout: float | None) -> Event | None:
        """The next event, or None after ``timeout`` seconds (None: wait for ever)."""

    @abstractmethod
    def favour(self, known: Callable[[str], bool]) -> None:
        """Topics that ``known`` says yes to never wait behind others, nor one of them behind another.

        Called before ``open``; asked in any thread. Without it everything comes in its order.
        """

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """Bytes sent through the socket since ``open``, all connections added up."""

    @property
    @abstractmethod
    def bytes_received(self) -> int:
        """Bytes received likewise."""
