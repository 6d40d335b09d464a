"""From the thread that reads the network to the one that acts."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from tinyfleet.fedcore.protocol.traffic.lanes import Lanes, Room
from tinyfleet.fedcore.protocol.transport import Event, Received

log = logging.getLogger(__name__)

# Of a device that is known: every window of chunks that it may have been asked for, and what a flood in its name
# brings while the coordinator is at something else for a second, so that what it says itself finds room too.
KNOWN = Room(total_bytes=24 << 20, lane_bytes=8 << 20, lane_publishes=10_000)
# Of all others together: what is handled in a fraction of a second.
STRANGERS = Room(total_bytes=2 << 20, lane_bytes=256 << 10, lane_publishes=4)
KNOWN_TURNS = 3  # for each turn of a stranger, while both wait
TOLD_S = 10.0  # how often the log tells of publishes that found no room
PLAIN_PUBLISHES = 20_000  # that wait at most where nobody is favoured


class Arrivals:
    """Events in the order in which they came, until ``favour`` tells known topics from others.

    From then on changes of the connection come first, and publishes by turns: of known topics among themselves, and
    of these before strangers', who wait in little room and never for ever. What finds no room is dropped.
    """

    def __init__(self, known: Room = KNOWN, strangers: Room = STRANGERS) -> None:
        self._changed = threading.Condition()
        self._connection: deque[Event] = deque()
        self._plain: deque[Event] = deque()
        self._room = known
        self._plain_bytes = 0
        self._known, self._strangers = Lanes(known), Lanes(strangers, freshest=True)
        self._is_known: Callable[[str], bool] | None = None
        self._turns = 0  # of known topics, since a stranger's
        self._dropped = 0
        self._told_at = float("-inf")

    def __len__(self) -> int:
        return len(self._connection) + len(self._plain) + len(self._known) + len(self._strangers)

    def favour(self, known: Callable[[str], bool]) -> None:
        """``known`` says whether a topic belongs to somebody known; asked in the thread that puts."""
        self._is_known = known

    def put(self, event: Event) -> None:
        """Add an event. A publish for which there is no room is counted, and dropped."""
        known = isinstance(event, Received) and self._is_known is not None and self._is_known(event.topic)
        with self._changed:
            if not isinstance(event, Received):
                (self._plain if self._is_known is None else self._connection).append(event)
            elif self._is_known is None:
                self._put_plain(event)
            else:
                self._dropped += (self._known if known else self._strangers).add(event)
            self._changed.notify()

    def get(self, timeout: float | None) -> Event | None:
        """The next event; None where none came within ``timeout`` seconds (None: wait for ever)."""
        with self._changed:
            if not len(self) and timeout != 0.0:
                self._changed.wait_for(lambda: len(self) > 0, timeout)
            return self._next() if len(self) else None

    def take_dropped(self) -> int:
        """How many publishes have been dropped since this was asked last."""
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        return dropped

    def tell_dropped(self, now: float) -> None:
        """Say in the log, now and then, how many publishes found no room."""
        if now - self._told_at >= TOLD_S and (dropped := self.take_dropped()):
            self._told_at = now
            log.warning("%d messages were dropped: they came faster than they are handled", dropped)

    def _put_plain(self, event: Received) -> None:
        size = len(event.payload)
        if len(self._plain) >= PLAIN_PUBLISHES or self._plain_bytes + size > self._room.total_bytes:
            self._dropped += 1
            return
        self._plain_bytes += size
        self._plain.append(event)

    def _next(self) -> Event:
        if self._connection:
            return self._connection.popleft()
        if self._plain:
            event = self._plain.popleft()
            self._plain_bytes -= len(event.payload) if isinstance(event, Received) else 0
            return event
        stranger = not len(self._known) or (len(self._strangers) > 0 and self._turns >= KNOWN_TURNS)
        self._turns = 0 if stranger else self._turns + 1
        return (self._strangers if stranger else self._known).next()
