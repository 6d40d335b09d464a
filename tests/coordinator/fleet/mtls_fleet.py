"""An authority, the Mosquitto that `tinyfleet broker config` describes, and clients of it."""

from __future__ import annotations

import os
import socket
import subprocess
import time

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol.brokers.mosquitto import find_mosquitto, free_port
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Received
from tinyfleet.mosquitto_files import CONFIGURATION, refresh, write_broker


class MtlsFleet:
    """``authority`` and a broker of it at ``url``; ``issue`` makes files that ``connect`` takes."""

    def __init__(self, directory, hosts=("localhost",), authority=None):
        self.directory = directory
        self.authority = authority or Authority.make(directory / "authority")
        self.port = free_port()
        self.url = f"mqtts://localhost:{self.port}"
        self.broker = directory / "broker"
        self.clients = []
        self._process = None
        write_broker(self.authority, self.broker, hosts, self.port, "127.0.0.1")
        self.start()

    def start(self):
        text = (self.broker / CONFIGURATION).read_text() + "\nsys_interval 1\n"
        if os.geteuid() == 0:
            text += "user root\n"  # the tests' directory is closed to others
        (self.directory / "mosquitto.conf").write_text(text)
        with (self.directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_mosquitto(), "-c", str(self.directory / "mosquitto.conf")], stdout=log, stderr=log
            )
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert self._process.poll() is None, (self.directory / "mosquitto.log").read_text()[-2000:]
                assert time.monotonic() < end
                time.sleep(0.02)

    def stop(self):
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def restart(self):
        """What `--restart` does to a broker, after what `--broker` does to its files."""
        refresh(self.authority, self.broker)
        self.stop()
        self.start()

    def signal(self, number):
        self._process.send_signal(number)

    def issue(self, name, **options):
        """Directory with NAME.key, NAME.crt and trust.crt."""
        return self.keep(self.authority.issue(subject_of(name), **options))

    def keep(self, issued):
        kept = self.directory / f"{issued.row.name}-{issued.row.serial[:8]}"
        kept.mkdir()
        (kept / "key").touch(mode=0o600)
        (kept / "key").write_bytes(issued.key or b"")
        (kept / "crt").write_bytes(issued.certificate)
        (kept / "trust").write_bytes(issued.trust)
        return kept

    def connect(self, kept, *subscriptions, client_id="any", trust=None, **options):
        transport = MqttTransport(
            self.url,
            client_id,
            tls_ca=str(trust or kept / "trust"),
            tls_cert=None if kept is None else str(kept / "crt"),
            tls_key=None if kept is None else str(kept / "key"),
            reconnect_max_s=0.5,
            **options,
        )
        self.clients.append(transport)
        transport.open(subscriptions)
        return transport

    def close(self):
        for client in self.clients:
            client.close()
        self.stop()


def until(transport, kind):
    """The next event of that kind; what comes before it is passed over."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        event = transport.receive(0.2)
        if isinstance(event, kind):
            return event
    raise AssertionError(f"no {kind.__name__} came; {transport.fault}")


def received(transport, payload):
    """All publishes up to the one with that payload, it included."""
    found = []
    while not found or found[-1].payload != payload:
        found.append(until(transport, Received))
    return found


def refused(transport):
    """Why the broker keeps this client out; that it was not there for a moment is none."""
    while True:
        event = transport.receive(PATIENCE_S)
        assert not isinstance(event, Connected), "it was let in"
        if isinstance(event, Disconnected) and event.kind not in (CauseKind.PORT, CauseKind.LOST):
            return event.reason
