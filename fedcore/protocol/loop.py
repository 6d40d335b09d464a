"""Transport within one process, for unit tests and in-process fleets: MQTT's semantics without a network."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.traffic.arrivals import Arrivals
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Event, Received, Transport, Will


def matches(topic_filter: str, topic: str) -> bool:
    """MQTT topic matching with ``+`` and ``#``."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(given) or part not in ("+", given[index]):
            return False
    return len(wanted) == len(given)


class LoopBroker:
    """Hands publishes to subscribers at once. ``drop`` and ``stop`` cut connections as a network would."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._clients: dict[str, LoopTransport] = {}
        self._cut: set[str] = set()
        self._running = True

    def stop(self) -> None:
        """Go down: every client loses its connection."""
        with self._lock:
            self._running = False
            for client in list(self._clients.values()):
                client._lose("broker stopped")

    def start(self) -> None:
        """Come back: clients reconnect, subscribe again, and know nothing of what was missed."""
        with self._lock:
            self._running = True
            for client in list(self._clients.values()):
                self._admit(client)

    def drop(self, client_id: str) -> None:
        """Cut one client off until ``restore``; its will is published."""
        with self._lock:
            self._cut.add(client_id)
            client = self._clients.get(client_id)
            if client is not None and client.connected:
                client._lose("connection cut")
                if client.will is not None:
                    self._deliver(client.will.topic, client.will.payload)

    def restore(self, client_id: str) -> None:
        """Let a dropped client reconnect."""
        with self._lock:
            self._cut.discard(client_id)
            client = self._clients.get(client_id)
            if client is not None:
                self._admit(client)

    def _join(self, client: LoopTransport) -> None:
        with self._lock:
            former = self._clients.get(client.client_id)
            if former is not None and former is not client:
                former._lose("another client took over this id")
            self._clients[client.client_id] = client
            self._admit(client)

    def _leave(self, client: LoopTransport) -> None:
        with self._lock:
            if self._clients.get(client.client_id) is client:
                del self._clients[client.client_id]

    def _admit(self, client: LoopTransport) -> None:
        if self._running and client.client_id not in self._cut and not client.connected:
            client._gain()

    def _deliver(self, topic: str, payload: bytes) -> None:
        with self._lock:
            for client in self._clients.values():
                if client.connected and any(matches(pattern, topic) for pattern in client.subscriptions):
                    client._take(topic, payload)


class LoopTransport(Transport):
    """One client of a ``LoopBroker``. Byte counts are topic and payload lengths: there is no socket."""

    def __init__(self, broker: LoopBroker, client_id: str) -> None:
        self.client_id = client_id
        self.subscriptions: tuple[str, ...] = ()
        self.will: Will | None = None
        self._make_will: Callable[[], Will] | None = None
        self._broker = broker
        self._events = Arrivals()
        self._connected = False
        self._sent = 0
        self._received = 0

    def open(self, subscriptions: tuple[str, ...], will: Callable[[], Will] | None = None) -> None:
        self.subscriptions, self._make_will = subscriptions, will
        self._broker._join(self)

    def close(self) -> None:
        self._connected = False
        self._broker._leave(self)

    @property
    def connected(self) -> bool:
        return self._connected

    def publish(self, topic: str, payload: bytes, timeout: float = 30.0) -> None:
        if not self._connected:
            raise TransportError("not connected to the loop broker")
        self._sent += len(topic) + len(payload)
        self._broker._deliver(topic, payload)

    def reconnect(self) -> None:
        if self._connected:
            self._lose("connecting again")
            self._broker._join(self)

    @property
    def window_free(self) -> int:
        return 16 if self._connected else 0

    def receive(self, timeout: float | None) -> Event | None:
        return self._events.get(timeout)

    def favour(self, known: Callable[[str], bool]) -> None:
        self._events.favour(known)

    @property
    def bytes_sent(self) -> int:
        return self._sent

    @property
    def bytes_received(self) -> int:
        return self._received

    def _gain(self) -> None:
        self.will = None if self._make_will is None else self._make_will()
        self._connected = True
        self._events.put(Connected())

    def _lose(self, reason: str, kind: CauseKind = CauseKind.LOST) -> None:
        if self._connected:
            self._connected = False
            self._events.put(Disconnected(reason, kind))

    def _take(self, topic: str, payload: bytes) -> None:
        self._received += len(topic) + len(payload)
        self._events.put(Received(topic, payload))
