"""A connection under a flood: what is skipped, what is given up, and that it hears again."""

from __future__ import annotations

import random
import socket
import threading
import time

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.bench.fleet import packets
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach import client as reach_client
from tinyfleet.fedcore.protocol.reach import publishes
from tinyfleet.fedcore.protocol.traffic.buffered_reading import BufferedReading
from tinyfleet.fedcore.protocol.traffic.flood_watch import LOOK_S, MANY, QUIET_S, FloodWatch
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Received


class Parts:
    """Stands for paho, and reads from a list instead of a socket."""

    def __init__(self, parts):
        self.parts = list(parts)
        self._in_packet = {"command": 0}
        self.confirmed_only = True

    def _sock_recv(self, bufsize):
        if not self.parts:
            raise BlockingIOError
        return self.parts.pop(0)


class FakePaho(BufferedReading, Parts):
    """The reading alone."""


@pytest.fixture
def paho():
    return FakePaho


def read_all(client):
    """What paho gets to see, byte by byte, as between packets."""
    found = b""
    while True:
        try:
            found += client._sock_recv(1)
        except BlockingIOError:
            if not client.parts and client._read_at >= len(client._read):
                return found


@pytest.mark.parametrize("seed", range(20))
def test_unconfirmed_publishes_are_skipped_however_they_are_cut(paho, seed):
    rng = random.Random(seed)
    sizes = [rng.choice((0, 1, 100, 127, 128, 20_000)) for _ in range(30)]
    publishes = [packets.publish("t", rng.randbytes(size)) for size in sizes]
    # Each cut lies behind the length of a publish: where that is cut in two, the publish goes the long way.
    starts = [sum(map(len, publishes[:index])) for index in range(len(publishes))]
    cuts = sorted(
        {start + min(5 + rng.randrange(20_000), len(p)) for start, p in zip(starts, publishes, strict=True)}
    )
    cuts = [0, *rng.sample(cuts, 5), sum(map(len, publishes))]
    stream = b"".join(publishes)
    parts = [stream[a:b] for a, b in zip(sorted(cuts), sorted(cuts)[1:], strict=False)]
    client = paho([*(part for part in parts if part), packets.PING])
    assert read_all(client) == packets.PING
    assert client.skipped == len(sizes)


def test_confirmed_publishes_and_others_pass(paho):
    stream = packets.publish("t", b"x" * 300, 7) + packets.acknowledge(9) + packets.PING
    assert read_all(paho([stream])) == stream
    client = paho([packets.publish("t", b"y") + packets.PING])
    client.confirmed_only = False
    assert read_all(client) == packets.publish("t", b"y") + packets.PING


def test_a_flood_is_over_once_after_it_was_one():
    watch = FloodWatch()
    assert watch.due(0.0)
    assert not watch.due(LOOK_S / 2)
    assert not watch.over(MANY - 1, 1.0)
    assert not watch.over(MANY - 1, 1.0 + 2 * QUIET_S), "too few to be one"
    assert not watch.over(2 * MANY, 10.0)
    assert not watch.over(2 * MANY, 10.0 + QUIET_S / 2)
    assert watch.over(2 * MANY, 10.0 + QUIET_S)
    assert not watch.over(0, 20.0), "the new connection's count"


def test_a_window_that_the_broker_forgot_is_given_up(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(publishes.time, "monotonic", lambda: now[0])
    window = publishes.Publishes("gw:1883", 2, threading.Condition())

    def publish():
        window.begin("t", 1, 1000.0, stands=lambda: True, hurried=lambda: False)
        window.sent("t", 1, publish.number)
        publish.number += 1

    publish.number = 1
    publish()
    publish()
    assert window.free == 0
    assert not window.forget_lost()
    now[0] += publishes.ACKNOWLEDGEMENT_S
    with pytest.raises(TransportError, match="acknowledges nothing any more"):
        publish()
    assert window.deaf
    assert window.forget_lost()
    assert window.free == 2
    assert not window.forget_lost()


def flood(port, count):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(packets.connect("flood"))
        sock.recv(4)
        one = b"".join(packets.publish("t/up", bytes(2000)) for _ in range(100))
        for _ in range(count // 100):
            sock.sendall(one)


@pytest.mark.slow
def test_after_a_flood_that_it_could_not_keep_up_with_it_hears_again(tmp_path, monkeypatch):
    """Mosquitto, its queue full, takes confirmed messages for delivered that it drops."""
    if not MosquittoBroker.available():
        pytest.skip("mosquitto is not installed")
    broker = MosquittoBroker(tmp_path / "broker")
    url = f"mqtt://127.0.0.1:{broker.start()}"
    receiver, sender = MqttTransport(url, "receiver"), MqttTransport(url, "sender")
    may_read = threading.Event()
    may_read.set()
    read = reach_client.Client._sock_recv

    def slow(self, bufsize):
        if self._client_id == b"receiver":
            may_read.wait(PATIENCE_S)
        return read(self, bufsize)

    monkeypatch.setattr(reach_client.Client, "_sock_recv", slow)
    for transport in (receiver, sender):
        transport.open(("t/up",) if transport is receiver else ())
        assert transport.receive(PATIENCE_S) == Connected()
    may_read.clear()
    flood(broker.port, 30_000)
    for _ in range(100):
        sender.publish("t/up", b"lost, perhaps")
    may_read.set()
    end = time.monotonic() + PATIENCE_S
    events = []
    while Received("t/up", b"heard") not in events and time.monotonic() < end:
        event = receiver.receive(0.2)
        if event is not None:
            events.append(event)
        if isinstance(event, Connected):
            sender.publish("t/up", b"heard")
    assert any(isinstance(event, Disconnected) for event in events), "connected anew"
    assert Received("t/up", b"heard") in events
    assert all(event.payload != bytes(2000) for event in events if isinstance(event, Received))
    receiver.close()
    sender.close()
    broker.stop()
