"""The publishes of one connection: how many are under way, and what the broker makes of each topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.reach import causes
from tinyfleet.fedcore.protocol.reach.announced import Announced
from tinyfleet.fedcore.protocol.reach.causes import CauseKind

# How soon a publish that waits for room notices that the program is to end.
_LOOK_S = 0.1
# Of silence, after which a publish will not be acknowledged: a broker whose queue for a client is full drops that.
ACKNOWLEDGEMENT_S = 10.0
# Topics of which something is kept; a fleet's names are a stranger's to choose.
_MOST_TOPICS = 1000
_UNHEARD = 0x10  # PUBACK: no matching subscribers


class Publishes:
    """At most ``window`` without an acknowledgement, or the broker's Receive Maximum where that is less.

    Guarded by ``changed``, the connection's: what of it is waited for is told there.
    """

    def __init__(self, address: str, window: int, changed: threading.Condition) -> None:
        self.announced = Announced()
        self.refused: dict[str, tuple[CauseKind, str]] = {}  # by topic
        self.unheard: set[str] = set()  # topics that nobody subscribed to, the last time
        self._address, self._wanted, self._changed = address, window, changed
        self._in_flight: dict[int, tuple[str, int]] = {}  # topic and size, by packet id
        self._sending = 0  # beside these: packet ids are known after the fact
        self._early: dict[int, Any] = {}  # acknowledged before that
        self._last_at = time.monotonic()
        self.deaf = False  # the window is full, and nothing is acknowledged

    @property
    def window(self) -> int:
        """How many may be under way."""
        return min(self._wanted, self.announced.receive_maximum)

    @property
    def free(self) -> int:
        """How many would not wait now."""
        return self.window - len(self._in_flight) - self._sending

    @property
    def largest(self) -> int:
        """Bytes of the largest one that is not acknowledged."""
        with self._changed:
            return max((size for _, size in self._in_flight.values()), default=0)

    def begin(
        self, topic: str, size: int, timeout: float, *, stands: Callable[[], bool], hurried: Callable[[], bool]
    ) -> None:
        """Wait for room. Raises ``TransportError`` where there is none in time, or the payload is too large."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while stands() and self.free <= 0:
                left = deadline - time.monotonic()
                if left <= 0 or hurried():
                    raise TransportError(
                        f"the broker at {self._address} acknowledged none of {self.window} publishes "
                        f"{'yet' if left > 0 else f'within {timeout:g} s'}"
                    )
                if self._silent_s >= ACKNOWLEDGEMENT_S:
                    self.deaf = True
                    raise TransportError(f"the broker at {self._address} acknowledges nothing any more")
                self._changed.wait(min(left, _LOOK_S))
            if not stands():
                raise TransportError(f"not connected to the broker at {self._address}")
            if size > self.announced.payload_bytes(topic):
                said = f"the broker takes packets of {self.announced.packet_bytes} bytes at most"
                self.refused[topic] = (CauseKind.SIZE, f"{said}; raise its limit: one of {size} bytes waits")
                raise TransportError(f"{size} bytes for {topic} are too many: {said}")
            self._sending += 1
            self._last_at = time.monotonic()

    def sent(self, topic: str, size: int, packet_id: int | None) -> None:
        """It was handed to the library, as ``packet_id``; None: it was not taken."""
        with self._changed:
            self._sending -= 1
            if packet_id is not None and (early := self._early.pop(packet_id, None)) is not None:
                self._judge(topic, early)
            elif packet_id is not None:
                self._in_flight[packet_id] = (topic, size)
            self._changed.notify_all()

    def acknowledged(self, packet_id: int, reason: Any) -> None:
        """A PUBACK, with MQTT 5's reason."""
        with self._changed:
            self._last_at = time.monotonic()
            sent = self._in_flight.pop(packet_id, None)
            if sent is None:
                self._early[packet_id] = reason
            else:
                self._judge(sent[0], reason)
            self._changed.notify_all()

    @property
    def _silent_s(self) -> float:
        """Seconds since anything was published or acknowledged."""
        return time.monotonic() - self._last_at

    def forget_lost(self) -> bool:
        """Drop what was not acknowledged in a long time without any other; True where there was such."""
        with self._changed:
            lost = bool(self._in_flight) and self._silent_s >= ACKNOWLEDGEMENT_S
            if lost:
                self._in_flight.clear()
        return lost

    def _judge(self, topic: str, reason: Any) -> None:
        """What the broker makes of a publish to ``topic``. MQTT 3.1.1 says nothing."""
        if len(self.unheard) + len(self.refused) > _MOST_TOPICS:
            self.unheard.clear()
            self.refused.clear()
        (self.unheard.add if reason.value == _UNHEARD else self.unheard.discard)(topic)
        if reason.is_failure:
            self.refused[topic] = causes.publish_refused(str(reason), topic)
        else:
            self.refused.pop(topic, None)
