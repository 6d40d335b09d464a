"""One conformance suite for every transport and broker."""

from __future__ import annotations

import itertools
import math
import time

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol import mqtt
from tinyfleet.fedcore.protocol.brokers.embedded import EmbeddedBroker
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport, matches
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.traffic import arrivals
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Received, Will

KINDS = ("loop", "mosquitto-5", "mosquitto-3.1.1", "mosquitto-auto", "embedded")


class Network:
    """A broker of one kind, and clients on it."""

    def __init__(self, kind, directory):
        self.kind, self.directory = kind, directory
        self.names = (f"client-{n}" for n in itertools.count())
        self.clients = []
        if kind == "loop":
            self.broker = LoopBroker()
        elif kind == "embedded":
            pytest.importorskip("amqtt")
            self.broker = EmbeddedBroker()
            self.broker.start()
        else:
            if not MosquittoBroker.available():
                pytest.skip("mosquitto is not installed")
            self.broker = MosquittoBroker(directory)
            self.broker.start()

    def client(self, *subscriptions, will=None, window=16):
        if self.kind == "loop":
            transport = LoopTransport(self.broker, next(self.names))
        else:
            protocol = self.kind.removeprefix("mosquitto-") if self.kind.startswith("mosquitto") else "auto"
            url = f"mqtt://127.0.0.1:{self.broker.port}"
            transport = MqttTransport(url, next(self.names), window=window, protocol=protocol, reconnect_max_s=1.0)
        self.clients.append(transport)
        transport.open(subscriptions, will)
        assert transport.receive(PATIENCE_S) == Connected()
        return transport

    def close(self):
        for client in self.clients:
            client.close()
        self.broker.stop()


@pytest.fixture(params=[pytest.param(k, marks=pytest.mark.slow if k == "mosquitto-3.1.1" else ()) for k in KINDS])
def network(request, tmp_path):
    made = Network(request.param, tmp_path / "broker")
    yield made
    made.close()


def messages(transport, count, timeout=PATIENCE_S):
    found = []
    end = time.monotonic() + timeout
    while len(found) < count and time.monotonic() < end:
        event = transport.receive(0.2)
        if isinstance(event, Received):
            found.append((event.topic, event.payload))
    return found


def test_delivery_in_order_and_by_wildcard(network):
    one = network.client("t/+/up", "t/+/up/chunk")
    two = network.client("t/b/down")
    for index in range(40):
        two.publish("t/a/up", b"%d" % index)
    two.publish("t/b/up/chunk", b"c")
    two.publish("t/b/other", b"nobody's")
    one.publish("t/b/down", b"back")
    found = messages(one, 41)
    assert [payload for topic, payload in found if topic == "t/a/up"] == [b"%d" % i for i in range(40)]
    assert ("t/b/up/chunk", b"c") in found
    assert messages(two, 1) == [("t/b/down", b"back")]
    assert messages(one, 1, timeout=0.3) == []


def test_a_connection_that_is_renewed_stands_again(network):
    client = network.client("t", will=lambda: Will("wills", b"gone"))
    heir = network.client("wills")
    client.reconnect()
    ended = client.receive(PATIENCE_S)
    assert isinstance(ended, Disconnected)
    assert "connecting again" in ended.reason
    assert client.receive(PATIENCE_S) == Connected()
    client.publish("t", b"after")
    assert messages(client, 1) == [("t", b"after")]
    assert messages(heir, 1, timeout=0.3) == [], "it said goodbye: nobody inherits"


def test_a_megabyte_arrives_and_is_counted(network):
    receiver, sender = network.client("big"), network.client()
    before = sender.bytes_sent, receiver.bytes_received
    payload = bytes(range(256)) * 4096
    sender.publish("big", payload)
    assert messages(receiver, 1) == [("big", payload)]
    assert len(payload) <= receiver.bytes_received - before[1] < len(payload) * 1.1 + 1000
    # The kernel's count of what was sent holds retransmissions, which a busy machine makes on its loopback too.
    assert len(payload) <= sender.bytes_sent - before[0] < len(payload) * 2


def test_the_window_is_bounded(network):
    if network.kind == "loop":
        pytest.skip("the loop delivers at once")
    sender = network.client(window=4)
    receiver = network.client("t")
    low = 4
    for _ in range(200):
        sender.publish("t", bytes(5000))
        low = min(low, sender.window_free)
        assert 0 <= sender.window_free <= 4
    assert len(messages(receiver, 200)) == 200
    assert low < 4, "the window was never used: this test shows nothing"


def test_round_trips_are_short(network):
    one, two = network.client("ping"), network.client("pong")
    end = time.monotonic() + PATIENCE_S
    shortest = math.inf
    while shortest >= 0.03:  # on a busy machine one of many trips is as short as all are on a quiet one
        assert time.monotonic() < end, f"{shortest * 1e3:.0f} ms: Nagle's algorithm would make it 88"
        start = time.perf_counter()
        two.publish("ping", b"x")
        assert isinstance(one.receive(PATIENCE_S), Received)
        one.publish("pong", b"y")
        assert isinstance(two.receive(PATIENCE_S), Received)
        shortest = min(shortest, time.perf_counter() - start)


def test_a_clean_close_sends_no_will_and_closing_twice_is_fine(network):
    watcher = network.client("wills")
    client = network.client(will=lambda: Will("wills", b"gone"))
    client.close()
    client.close()
    assert not client.connected
    assert messages(watcher, 1, timeout=0.5) == []
    with pytest.raises(TransportError, match="not connected"):
        client.publish("t", b"x")


def test_a_lost_client_leaves_its_will(network):
    watcher = network.client("wills")
    client = network.client(will=lambda: Will("wills", b"gone"))
    if network.kind == "loop":
        network.broker.drop(client.client_id)
    else:
        sock = client._connection._client.socket()
        client._closing.set()  # it must not come back and take over its own session
        sock.shutdown(2)
    assert messages(watcher, 1) == [("wills", b"gone")]


def test_after_a_broker_restart_everything_works_again(network):
    one, two = network.client("t"), network.client()
    network.broker.stop()
    for client in (one, two):
        assert isinstance(client.receive(PATIENCE_S), Disconnected)
        assert not client.connected
        with pytest.raises(TransportError):
            client.publish("t", b"lost")
    counted = one.bytes_received
    network.broker.start()
    for client in (one, two):
        while (event := client.receive(PATIENCE_S)) != Connected():
            assert event.kind is CauseKind.PORT, "a try in between"
    two.publish("t", b"again")
    assert messages(one, 1) == [("t", b"again")]
    assert one.bytes_received > counted or network.kind == "loop"


def test_nothing_is_retained(network):
    sender = network.client()
    sender.publish("t", b"early")
    while sender.window_free < 16:  # acknowledged: the broker has handed it on to whoever is there
        time.sleep(0.01)
    late = network.client("t")
    assert messages(late, 1, timeout=0.3) == []


def test_receive_times_out(network):
    client = network.client("t")
    assert client.receive(0.0) is None
    start = time.monotonic()
    assert client.receive(0.1) is None
    assert time.monotonic() - start > 0.09


def test_it_connects_when_the_broker_comes_late(tmp_path):
    if not MosquittoBroker.available():
        pytest.skip("mosquitto is not installed")
    broker = MosquittoBroker(tmp_path)
    broker.port = broker.start()
    broker.stop()
    client = MqttTransport(f"mqtt://127.0.0.1:{broker.port}", "late", reconnect_max_s=0.3)
    client.open(("t",))
    reason = f"127.0.0.1:{broker.port}: nobody listens on that port; start the broker there, or correct broker.url"
    assert client.receive(PATIENCE_S) == Disconnected(reason, CauseKind.PORT)
    assert client.receive(0.5) is None, "the same again"
    broker.start()
    assert client.receive(PATIENCE_S) == Connected()
    client.close()
    broker.stop()


@pytest.mark.parametrize("url", ["127.0.0.1", "http://host", "mqtt://", "mqtt://u:p@host", "mqtt://host:x"])
def test_bad_urls_say_what_to_give(url):
    with pytest.raises(ConfigError, match="mqtt://HOST:PORT"):
        MqttTransport(url, "x")


def test_the_embedded_broker_refuses_the_network():
    with pytest.raises(ConfigError, match="loopback"):
        EmbeddedBroker(host="0.0.0.0")  # noqa: S104


@pytest.mark.parametrize(
    ("pattern", "topic", "match"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a/b/c", True),
        ("a/b", "a", False),
        ("#", "x", True),
    ],
)
def test_topic_matching(pattern, topic, match):
    assert matches(pattern, topic) is match


def test_what_is_too_large_or_too_much_is_dropped_and_the_rest_arrives(network, monkeypatch):
    if network.kind == "loop":
        pytest.skip("the loop takes any size")
    receiver, sender = network.client("big", "small"), network.client()
    sender.publish("big", b"x" * (mqtt.MAX_PAYLOAD_BYTES + 1))
    sender.publish("small", b"1")
    assert messages(receiver, 1) == [("small", b"1")]
    monkeypatch.setattr(arrivals, "PLAIN_PUBLISHES", 3)
    for number in range(8):
        sender.publish("small", b"%d" % number)
    sender.publish("small", b"last")
    deadline = time.monotonic() + PATIENCE_S
    while receiver._events._dropped < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert receiver._events.take_dropped() == 6
    assert [payload for _, payload in messages(receiver, 3)] == [b"0", b"1", b"2"]


def test_who_is_known_does_not_wait_behind_others(network):
    receiver = network.client("t/+")
    receiver.favour(lambda topic: topic == "t/known")
    sender = network.client()
    for number in range(50):
        sender.publish(f"t/{number}", b"")
    sender.publish("t/known", b"!")
    deadline = time.monotonic() + PATIENCE_S
    while len(receiver._events) < 51 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert messages(receiver, 1) == [("t/known", b"!")]
    assert len(messages(receiver, 50)) == 50
