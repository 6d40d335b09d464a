"""Whoever sends most waits for itself, whatever it sends."""

from __future__ import annotations

import threading
import tracemalloc

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.fedcore.protocol.traffic.arrivals import KNOWN, KNOWN_TURNS, STRANGERS, Arrivals
from tinyfleet.fedcore.protocol.traffic.lanes import OVERHEAD_BYTES, Lanes, Room
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Received


def publish(topic, size=1):
    return Received(topic, bytes(size))


def drain(arrivals):
    found = []
    while (event := arrivals.get(0.0)) is not None:
        found.append(event)
    return found


def topics(events):
    return [event.topic for event in events]


def favouring():
    arrivals = Arrivals()
    arrivals.favour(lambda topic: topic.startswith("known"))
    return arrivals


def test_topics_take_turns_and_each_keeps_its_order():
    lanes = Lanes(Room(10**9, 10**9, 100))
    for size in (1, 2, 3):
        lanes.add(publish("greedy", size))
    lanes.add(publish("modest", 9))
    found = [lanes.next() for _ in range(len(lanes))]
    assert [(p.topic, len(p.payload)) for p in found] == [
        ("greedy", 1),
        ("modest", 9),
        ("greedy", 2),
        ("greedy", 3),
    ]
    with pytest.raises(KeyError):
        lanes.next()


def test_one_topic_fills_half_of_what_is_free_and_others_still_find_room():
    size = 1000 - OVERHEAD_BYTES
    lanes = Lanes(Room(100_000, 10**9, 10**9))
    assert sum(lanes.add(publish("one", size)) for _ in range(100)) == 50
    assert sum(lanes.add(publish("two", size)) for _ in range(100)) == 75
    assert sum(lanes.add(publish("three", size)) for _ in range(5)) == 0
    assert len(lanes) == 50 + 25 + 5


@pytest.mark.parametrize(("room", "kept"), [(Room(10**9, 3 * 1000, 10**9), 3), (Room(10**9, 10**9, 7), 7)])
def test_a_lane_has_its_own_bounds(room, kept):
    lanes = Lanes(room)
    dropped = sum(lanes.add(publish("t", 1000 - OVERHEAD_BYTES)) for _ in range(20))
    assert (len(lanes), dropped) == (kept, 20 - kept)


def test_of_strangers_the_latest_are_still_there_and_are_next():
    lanes = Lanes(Room(10 * 1000, 10**9, 4), freshest=True)
    dropped = sum(lanes.add(publish(f"s{number}", 1000 - OVERHEAD_BYTES)) for number in range(1000))
    assert dropped == 990
    assert topics(lanes.next() for _ in range(10)) == [f"s{number}" for number in reversed(range(990, 1000))]
    for size in range(4):
        lanes.add(publish("greedy", size))
    lanes.add(publish("modest"))
    assert lanes.add(publish("greedy", 4)) == 1
    found = [lanes.next() for _ in range(len(lanes))]
    assert topics(found) == ["modest", *["greedy"] * 4]
    assert [len(p.payload) for p in found[1:]] == [1, 2, 3, 4], "its latest are kept"


def test_without_favour_everything_comes_in_its_order():
    arrivals = Arrivals()
    events = [publish("a"), Disconnected("gone"), publish("b"), Connected(), publish("a")]
    for event in events:
        arrivals.put(event)
    assert drain(arrivals) == events


def test_the_known_come_first_and_strangers_not_never():
    arrivals = favouring()
    for number in range(40):
        arrivals.put(publish(f"stranger-{number}"))
        arrivals.put(publish("known-greedy"))
    arrivals.put(publish("known-modest"))
    arrivals.put(Connected())
    found = drain(arrivals)
    assert found[0] == Connected()
    assert "known-modest" in topics(found[1:4])
    assert len(found) == 82
    first = topics(found[1 : 1 + 4 * (KNOWN_TURNS + 1)])
    assert sum(topic.startswith("stranger") for topic in first) == 4


@pytest.mark.parametrize(
    ("size", "sent"), [pytest.param(1, 50_000, marks=pytest.mark.slow), (1, 5000), (60_000, 1000), (1 << 20, 60)]
)
@pytest.mark.parametrize("names", [1, 20, 10_000])
@pytest.mark.parametrize("kind", ["known", "stranger"])
def test_a_flood_takes_a_bounded_share_of_memory_and_a_known_device_is_next(kind, names, size, sent):
    arrivals = favouring()
    payload = bytes(size)
    tracemalloc.start()
    for number in range(sent):
        # Each has its own bytes, as from a socket.
        arrivals.put(Received(f"{kind}-{number % names}", payload[:-1] + b"x"))
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 1.5 * (KNOWN.total_bytes if kind == "known" else STRANGERS.total_bytes)
    room = len(arrivals)
    assert arrivals.take_dropped() == sent - room
    arrivals.put(publish("known-honest", 100))
    wait = topics(drain(arrivals)).index("known-honest")
    assert wait <= (0 if kind == "stranger" else min(names, room))


def test_a_thread_that_waits_is_woken():
    arrivals = favouring()
    found = []
    waiter = threading.Thread(target=lambda: found.append(arrivals.get(PATIENCE_S)))
    waiter.start()
    arrivals.put(publish("known"))
    waiter.join(PATIENCE_S)
    assert topics(found) == ["known"]
    assert arrivals.get(0.01) is None
