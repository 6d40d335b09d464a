"""What the MQTT transport makes of a broker that refuses, hangs, or throws it out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading

import pytest

from tests.fedcore.protocol.reach.brokers import CONNACK_5, Server
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach.backoff import STABLE_S, Backoff
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected

SESSION_TAKEN_OVER, PACKET_TOO_LARGE = b"\xe0\x02\x8e\x00", b"\xe0\x02\x95\x00"


@pytest.fixture
def broker(request):
    broker = Server(request.param)
    yield broker
    broker.close()


class Most(random.Random):
    """Draws the bound."""

    def uniform(self, a, b):
        return b


def test_the_bound_doubles_and_only_a_connection_that_stood_takes_it_back():
    backoff = Backoff(30.0, Most())
    assert [backoff.wait_s(0.0) for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.wait_s(STABLE_S - 0.1) == 30.0, "it stood for a moment"
    assert [backoff.wait_s(STABLE_S), backoff.wait_s(1.0)] == [0.5, 1.0]
    waits = [Backoff(30.0, random.Random(seed)).wait_s(0.0) for seed in range(50)]
    assert min(waits) < 0.1, "full jitter"
    assert 0.4 < max(waits) <= 0.5


@pytest.mark.parametrize(
    ("broker", "kind", "reason"),
    [
        (CONNACK_5 + SESSION_TAKEN_OVER, CauseKind.SESSION, "Session taken over; another client uses the id 'one'"),
        (CONNACK_5 + PACKET_TOO_LARGE, CauseKind.SIZE, "Packet too large; raise its limit on packets"),
    ],
    indirect=["broker"],
)
def test_the_brokers_reason_is_kept(broker, kind, reason):
    transport = MqttTransport(broker.url, "one", protocol="5")
    transport.open(())
    assert transport.receive(PATIENCE_S) == Connected()
    lost = transport.receive(PATIENCE_S)
    assert lost.kind is kind
    assert lost.reason.startswith(f"{transport.address}: the broker ended the connection: {reason}")
    transport.close()


@pytest.mark.parametrize("broker", [b"\x20\x02\x00\x05"], indirect=True)
def test_a_refusal_is_told_once(broker):
    transport = MqttTransport(broker.url, "one", protocol="3.1.1", reconnect_max_s=0.01)
    transport.open(("t",))
    refused = transport.receive(PATIENCE_S)
    said = "the broker refused the connection: Not authorized; give broker.username and broker.password_file"
    assert refused == Disconnected(f"{transport.address}: {said}", CauseKind.LOGIN)
    while len(broker.connections) < 4:
        assert transport.receive(0.05) is None
    transport.close()


@pytest.mark.parametrize("broker", [b""], indirect=True)
def test_closing_does_not_wait_for_a_broker_that_never_answers(broker):
    transport = MqttTransport(broker.url, "one")
    transport.open(("t",))
    assert broker.reached.wait(PATIENCE_S)
    transport.close()
    transport._thread.join(PATIENCE_S)
    assert not transport._thread.is_alive()


@pytest.mark.parametrize("broker", [CONNACK_5], indirect=True)
def test_closing_ends_a_publish_that_a_hanging_broker_holds_up(broker):
    transport = MqttTransport(broker.url, "one", protocol="5", window=4)
    transport.open(())
    assert transport.receive(PATIENCE_S) == Connected()
    errors: list[str] = []
    held_up = threading.Event()

    def publish() -> None:
        try:
            for _ in range(100):
                if not transport.window_free:
                    held_up.set()
                transport.publish("t", bytes(4 << 20), timeout=PATIENCE_S)
        except TransportError as error:
            errors.append(str(error))

    publisher = threading.Thread(target=publish)
    publisher.start()
    assert held_up.wait(PATIENCE_S)
    transport.close()
    publisher.join(PATIENCE_S)
    transport._thread.join(PATIENCE_S)
    assert not publisher.is_alive()
    assert not transport._thread.is_alive(), "paho's thread has ended although nothing could be sent"
    assert "not connected to the broker" in errors[0]


@pytest.mark.parametrize("broker", [b"", CONNACK_5], indirect=True)
def test_sigterm_ends_a_coordinator_while_its_broker_hangs(broker, tmp_path):
    command = [sys.executable, "-c", "from tinyfleet.coordinator.cli import main; main()", "run"]
    command += ["--state", str(tmp_path / "state"), "--broker", broker.url]
    with subprocess.Popen(command, env=dict(os.environ)) as coordinator:
        assert broker.reached.wait(PATIENCE_S)
        coordinator.terminate()
        assert coordinator.wait(PATIENCE_S) == 0
