"""Bounded queues, one a topic, that take turns: whoever sends most waits for itself."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from tinyfleet.fedcore.protocol.transport import Received

OVERHEAD_BYTES = 700  # of a publish that waits, beside its payload: objects, topic, its place in the lane
SMALL_BYTES = 8192  # any message of an agent, and no chunk
RESERVE = 0.25  # of the room, for those of which nothing waits


@dataclass(frozen=True, slots=True)
class Room:
    """How much may wait: in all, and of one topic. Bytes count ``OVERHEAD_BYTES`` a publish."""

    total_bytes: int
    lane_bytes: int
    lane_publishes: int


class _Lane:
    __slots__ = ("bytes", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Received] = []  # short: an empty deque takes as much as ten of these
        self.bytes = 0


class Lanes:
    """Publishes by topic, in the order in which they came within each; topics take turns.

    A topic may fill half of what is free at most, and a small publish of a topic of which none waits finds room in
    a reserve, so that there is room for others however many flood. Where ``freshest``, the topic that came last is
    next, and what has waited longest goes for what comes: of names that nobody knows the latest may still be there
    to hear an answer.
    """

    def __init__(self, room: Room, *, freshest: bool = False) -> None:
        self._room, self._freshest = room, freshest
        self._lanes: OrderedDict[str, _Lane] = OrderedDict()  # whose turn it is comes first
        self._bytes = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, publish: Received) -> int:
        """Take a publish in; returns how many were dropped for want of room, this one perhaps."""
        size = len(publish.payload) + OVERHEAD_BYTES
        lane, room = self._lanes.get(publish.topic), self._room
        held, waiting = (0, 0) if lane is None else (lane.bytes, len(lane.waiting))
        dropped = 0
        if self._freshest and lane is not None and waiting >= room.lane_publishes:
            self._pop(lane)
            dropped, held = 1, lane.bytes
        elif waiting >= room.lane_publishes:
            return 1
        if held + size > room.lane_bytes:
            return dropped + 1
        if self._freshest:
            while self._bytes + size > room.total_bytes and self._count:
                self._take(last=False)
                dropped += 1
        elif held + size > room.total_bytes - self._bytes and (
            waiting or size > SMALL_BYTES or self._bytes + size > room.total_bytes * (1.0 + RESERVE)
        ):
            return 1
        lane = self._lanes.get(publish.topic)  # it may have been the one that had to go
        if lane is None:
            lane = self._lanes[publish.topic] = _Lane()
        lane.waiting.append(publish)
        lane.bytes += size
        self._bytes += size
        self._count += 1
        return dropped

    def next(self) -> Received:
        """The first publish of the topic whose turn it is. Raises ``KeyError`` where none waits."""
        return self._take(last=self._freshest)

    def _take(self, *, last: bool) -> Received:
        topic, lane = self._lanes.popitem(last=last)
        publish = self._pop(lane)
        if lane.waiting:
            self._lanes[topic] = lane
            if last:
                self._lanes.move_to_end(topic, last=False)
        return publish

    def _pop(self, lane: _Lane) -> Received:
        publish = lane.waiting.pop(0)
        size = len(publish.payload) + OVERHEAD_BYTES
        lane.bytes -= size
        self._bytes -= size
        self._count -= 1
        return publish
