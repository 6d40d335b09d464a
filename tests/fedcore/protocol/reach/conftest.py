from __future__ import annotations

import contextlib
import ssl

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet
from tests.fedcore.protocol.reach.brokers import ConfiguredBroker, Server
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport


class Scene:
    """Makes brokers and clients, and ends them."""

    def __init__(self, directory):
        self.directory = directory
        self.ending = contextlib.ExitStack()

    def mosquitto(self, *lines, anonymous=True, port=0):
        """A running broker with these lines of configuration."""
        if not MosquittoBroker.available():
            pytest.skip("mosquitto is not installed")
        broker = ConfiguredBroker(self.directory / "broker", *lines, anonymous=anonymous, port=port)
        broker.start()
        self.ending.callback(broker.stop)
        return broker

    def server(self, *answer, **options):
        """Something that is no broker."""
        server = Server(*answer, **options)
        self.ending.callback(server.close)
        return server

    def fleet(self, **options):
        """An authority and its broker, which wants certificates."""
        if not MosquittoBroker.available():
            pytest.skip("mosquitto is not installed")
        fleet = MtlsFleet(self.directory, **options)
        self.ending.callback(fleet.close)
        return fleet

    def certificate(self):
        """(context of a server called localhost, file of whom to trust)."""
        authority = Authority.make(self.directory / "authority")
        issued = authority.issue(subject_of("broker"), hosts=("localhost",))
        path = self.directory / "server.pem"
        path.touch(mode=0o600)
        path.write_bytes((issued.key or b"") + issued.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context, authority.trust_path

    def client(self, url, *subscriptions, client_id="board", **options):
        """A client that tries again soon, not yet opened where ``url`` is that of a fleet."""
        transport = MqttTransport(url, client_id, **{"reconnect_max_s": 0.1, **options})
        self.ending.callback(transport.close)
        transport.open(subscriptions)
        return transport


@pytest.fixture
def scene(tmp_path):
    made = Scene(tmp_path)
    with made.ending:
        yield made
