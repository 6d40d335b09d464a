"""The broker of examples/mosquitto: TLS, passwords, and each device held to its own topics."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import find_mosquitto, free_port
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.transport import Connected, Received

SAMPLE = Path(__file__).parent.parent.parent / "examples" / "mosquitto"
needs = [name for name in ("openssl", "mosquitto_passwd") if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(needs) or find_mosquitto() is None, reason=f"not installed: {', '.join(needs) or 'mosquitto'}"
)
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(where: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def broker(tmp_path):
    """The sample's files with this directory and a free port in place of the system's."""
    port = free_port()
    certs = tmp_path / "certs"
    certs.mkdir()
    openssl(
        certs, "req", "-x509", *KEY, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"
    )
    openssl(certs, "req", *KEY, "-subj", "/CN=localhost", "-keyout", "gateway.key", "-out", "gateway.csr")
    (certs / "gateway.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        certs, "x509", "-req", "-in", "gateway.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-days", "2", "-extfile", "gateway.ext", "-out", "gateway.crt",
    )  # fmt: skip
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for name in ("coordinator", "board-1", "board-2"):
        subprocess.run(
            ["mosquitto_passwd", "-b", passwords, name, f"secret of {name}"], check=True, capture_output=True
        )
    (tmp_path / "acl").write_text((SAMPLE / "acl").read_text())
    (tmp_path / "acl").chmod(0o600)
    text = (SAMPLE / "tinyfleet.conf").read_text().replace("/etc/mosquitto", str(tmp_path))
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(text.replace("listener 8883", f"listener {port} 127.0.0.1") + "user root\n")
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([find_mosquitto(), "-c", str(conf)], stdout=log, stderr=log) as process,
    ):
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
        yield f"mqtts://localhost:{port}", str(certs / "ca.crt")
        process.terminate()


def connect(broker, name: str, *subscriptions: str, password: str = "") -> MqttTransport:
    url, authority = broker
    transport = MqttTransport(
        url, f"{name}-client", username=name, password=password or f"secret of {name}", tls_ca=authority
    )
    transport.open(subscriptions)
    return transport


def expect(transport: MqttTransport, kind: type, timeout_s: float = PATIENCE_S):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        event = transport.receive(0.1)
        if isinstance(event, kind):
            return event
    return None


def test_a_device_talks_on_its_own_topics_only(broker):
    coordinator = connect(broker, "coordinator", topics.ALL_UP)
    board = connect(broker, "board-1", topics.down("board-1"))
    try:
        assert expect(coordinator, Connected)
        assert expect(board, Connected)
        board.publish(topics.up("board-1"), b"mine")
        assert expect(coordinator, Received).payload == b"mine"
        coordinator.publish(topics.down("board-1"), b"yours")
        assert expect(board, Received).payload == b"yours"
        board.publish(topics.up("board-2"), b"forged")
        board.publish(topics.up("board-1"), b"mine again")
        assert expect(coordinator, Received).payload == b"mine again"
    finally:
        board.close()
        coordinator.close()


def test_a_device_does_not_take_the_coordinators_session(broker):
    """The client id that it gives counts for nothing: the broker goes by the user name."""
    coordinator = connect(broker, "coordinator", topics.ALL_UP)
    url, authority = broker
    thief = MqttTransport(
        url,
        "coordinator",
        username="board-1",
        password="secret of board-1",
        tls_ca=authority,
    )
    try:
        assert expect(coordinator, Connected)
        thief.open((topics.down("board-1"),))
        assert expect(thief, Connected)
        thief.publish(topics.up("board-1"), b"as board 1")
        event = coordinator.receive(PATIENCE_S)
        assert event == Received(topics.up("board-1"), b"as board 1"), "it was not disconnected before"
    finally:
        thief.close()
        coordinator.close()


def test_the_brokers_figures_are_nothing_to_a_device(broker):
    coordinator = connect(broker, "coordinator", topics.ALL_UP)
    board = connect(broker, "board-1", topics.down("board-1"), "$SYS/#")
    try:
        assert expect(coordinator, Connected)
        assert expect(board, Connected)
        coordinator.publish(topics.down("board-1"), b"last")
        assert board.receive(PATIENCE_S).topic == topics.down("board-1")
    finally:
        board.close()
        coordinator.close()


def test_a_publish_that_no_part_of_the_fleet_sends_is_not_taken(broker):
    coordinator = connect(broker, "coordinator", topics.ALL_UP)
    board = connect(broker, "board-1", topics.down("board-1"))
    try:
        assert expect(coordinator, Connected)
        assert expect(board, Connected)
        with pytest.raises(TransportError, match="the broker takes packets of 1048576 bytes at most"):
            board.publish(topics.up("board-1"), bytes(2 << 20))
        assert board.connected, "what the broker would not take was not sent"
        board.publish(topics.up("board-1"), b"after")
        assert coordinator.receive(PATIENCE_S).payload == b"after"
    finally:
        board.close()
        coordinator.close()


@pytest.mark.slow
def test_a_wrong_password_stays_out(broker):
    board = connect(broker, "board-1", topics.down("board-1"), password="guessed")
    try:
        assert expect(board, Connected, timeout_s=2.0) is None
    finally:
        board.close()
