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

    def __init__(self, parts, protocol=4):
        self.parts = list(parts)
        self._in_packet = {"command": 0}
        self.confirmed_only = True
        self.found = []
        self.acknowledged = []
        self.taken = lambda *publish: self.found.append(publish)
        self._protocol = protocol
        self._packet_queue = lambda kind, data, mid, qos: self.acknowledged.append(data)

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


def test_an_unconfirmed_publish_that_comes_in_many_parts_is_skipped(paho):
    stream = packets.publish("t", b"\xe0" * 60_000)  # a packet that would end the connection, were it read as one
    parts = [stream[start : start + 7_000] for start in range(0, len(stream), 7_000)]
    client = paho([*parts, packets.PING])
    assert read_all(client) == packets.PING
    assert client.skipped == 1


def test_confirmed_publishes_are_taken_and_acknowledged_together_and_others_pass(paho):
    first, second = packets.publish("t", b"x" * 300, 7), packets.publish("u/v", b"", 65535)
    other = packets.acknowledge(9) + packets.PING
    client = paho([first + packets.publish("t", b"skipped") + second + other])
    assert read_all(client) == other
    assert client.found == [("t", b"x" * 300, False), ("u/v", b"", False)]
    assert client.acknowledged == [packets.acknowledge(7) + packets.acknowledge(65535)]
    assert client.skipped == 1


def test_publishes_are_left_to_paho_where_the_broker_grants_less_than_was_asked(paho):
    stream = packets.publish("t", b"y") + packets.publish("t", b"z", 3) + packets.PING
    client = paho([stream])
    client.confirmed_only = False
    assert read_all(client) == stream
    assert not client.found
    assert not client.acknowledged


@pytest.mark.parametrize("seed", range(20))
def test_a_confirmed_publish_that_is_cut_is_left_to_paho_whole(paho, seed):
    rng = random.Random(seed)
    publishes = [packets.publish("t", rng.randbytes(rng.choice((0, 1, 127, 20_000))), n + 1) for n in range(20)]
    stream = b"".join(publishes)
    cuts = sorted(rng.sample(range(len(stream) + 1), 5))
    parts = [part for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if (part := stream[a:b])]
    client, left = paho(parts), b""
    while client.parts or client._read_at < len(client._read):
        try:
            left += client._sock_recv(1)
        except BlockingIOError:
            continue
        if not client._in_packet["command"]:  # as paho: it reads on until the packet is whole
            client._in_packet["command"] = left[0]
        if left in publishes:
            publishes.remove(left)
            client._in_packet["command"], left = 0, b""
    assert not left
    taken = [packets.publish(topic, payload) for topic, payload, _ in client.found]
    assert len(b"".join(client.acknowledged)) == 4 * len(taken)
    assert sorted(len(one) for one in taken) == sorted(len(one) - 2 for one in publishes), "each of the others once"


def test_properties_retained_topics_that_are_no_text_and_malformed_publishes(paho):
    def publish(body, first=0x32):
        return bytes((first, len(body))) + body

    whole = publish(b"\0\1t\0\5\3\2\0\0payload") + publish(b"\0\1u\0\6\0kept", 0x33)
    client = paho([whole + publish(b"\0\1\xff\0\7\0")], protocol=5)
    with pytest.raises(BlockingIOError):
        client._sock_recv(1)
    assert client.found == [("t", b"payload", False), ("u", b"kept", True)]
    assert client.acknowledged == [b"".join(map(packets.acknowledge, (5, 6, 7)))]
    for body in (b"\0\x09t\0\5\0", b"\0\1t\0\5", b"\0\1t\0\5\xff\xff\xff\xff\xff", b"\0\1t\0\5\7\2", b""):
        client = paho([publish(body)], protocol=5)
        assert client._sock_recv(1) == b"\x32", "paho says what is wrong with it"
        assert not client.found
        assert not client.acknowledged


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
