"""The transport seam: publish, receive, presence. ``mqtt`` is real, ``loop`` lives in one process.

Everything arrives through ``receive`` in the caller's own thread, connection changes included, so
agent and coordinator are single-threaded state machines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind


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
    """The connection is gone, or could not be made; the transport keeps trying until ``close``.

    ``reason`` says what to do, and has the broker's own words where it gave any. ``kind`` None: it was wanted.
    """

    reason: str
    kind: CauseKind | None = CauseKind.LOST

    @property
    def cause(self) -> Cause | None:
        """None where there is nothing to mend."""
        return None if self.kind is None else Cause(self.kind, self.reason)


Event: TypeAlias = Received | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class Will:
    """Published by the broker when this client vanishes without a clean close. Never retained."""

    topic: str
    payload: bytes


class Transport(ABC):
    """At-least-once publish and subscribe. Nothing published is proof of delivery: the application acknowledges."""

    @abstractmethod
    def open(self, subscriptions: tuple[str, ...], will: Callable[[], Will] | None = None) -> None:
        """Start connecting in the background, for ever, with full jitter between tries. Does not block.

        ``will`` is called for each connection before it stands, in any thread.
        """

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

    @abstractmethod
    def reconnect(self) -> None:
        """End the connection, if there is one, and open the next soon, with the TLS files as they are now."""

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
    def address(self) -> str:
        """The broker's, for people."""
        return "here"

    @property
    def hindrance(self) -> Cause | None:
        """What the broker refuses on a connection that stands; None: nothing that it tells of."""
        return None

    def unheard(self, topic: str) -> bool:
        """The broker said that nobody subscribes to ``topic`` when it took the last publish there (MQTT 5)."""
        return False

    def payload_bytes(self, topic: str) -> int | None:
        """The largest payload that the broker takes for ``topic``; None: it announced no limit."""
        return None

    def hurry(self) -> None:  # noqa: B027 - nothing waits in a transport without a window
        """From now on no publish waits for room: the program is to end. Takes no lock: a signal's handler may."""

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """Bytes sent through the socket since ``open``, all connections added up."""

    @property
    @abstractmethod
    def bytes_received(self) -> int:
        """Bytes received likewise."""
