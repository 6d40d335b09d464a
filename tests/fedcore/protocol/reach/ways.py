"""Ways in which a broker is not reached, each with what is to be said of it."""

from __future__ import annotations

import errno
import os
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.fedcore.protocol.reach.brokers import CONNACK_5, no_subscriptions, password_lines
from tests.patience import PATIENCE_S
from tinyfleet.coordinator.fleet.authority import Authority, signing
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol.brokers.mosquitto import free_port
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.reach import connection
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected
from tinyfleet.fedcore.tls.clock import FILE_NAME as LAST_MET

DAY = 86400.0
HTTP = b"HTTP/1.1 400 Bad Request\r\n\r\n"
SERVER_BUSY, TAKES_QOS_0 = b"\x20\x03\x00\x89\x00", b"\x20\x05\x00\x00\x02\x24\x00"


def refusal(transport: MqttTransport) -> Cause:
    """Of the first event: it never stood."""
    event = transport.receive(PATIENCE_S)
    assert isinstance(event, Disconnected)
    return event.cause


def end(transport: MqttTransport) -> Cause:
    """Of the second event: it stood."""
    assert transport.receive(PATIENCE_S) == Connected()
    return refusal(transport)


def raising(monkeypatch, name: str, error: OSError) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(socket, name, fail)


def no_such_name(scene, monkeypatch):
    raising(monkeypatch, "getaddrinfo", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    return refusal(scene.client("mqtt://gatway.lan"))


def no_dns(scene, monkeypatch):
    raising(monkeypatch, "getaddrinfo", socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    return refusal(scene.client("mqtt://gateway.lan"))


def network_down(scene, monkeypatch):
    raising(monkeypatch, "create_connection", OSError(errno.ENETUNREACH, "Network is unreachable"))
    return refusal(scene.client("mqtt://gateway.lan"))


def host_off(scene, monkeypatch):
    raising(monkeypatch, "create_connection", TimeoutError("timed out"))
    return refusal(scene.client("mqtt://gateway.lan"))


def nobody_listens(scene, monkeypatch):
    return refusal(scene.client(f"mqtt://127.0.0.1:{free_port()}"))


def never_answers(scene, monkeypatch):
    return refusal(scene.client(scene.server().url))


def never_answers_tls(scene, monkeypatch):
    return refusal(scene.client(f"mqtts://127.0.0.1:{scene.server().port}"))


def never_subscribes(scene, monkeypatch):
    server = scene.server(CONNACK_5)
    return refusal(scene.client(server.url, "t", protocol="5"))


def web_server(scene, monkeypatch):
    return refusal(scene.client(scene.server(HTTP).url))


def web_server_with_tls(scene, monkeypatch):
    context, trust = scene.certificate()
    server = scene.server(HTTP, tls=context)
    return refusal(scene.client(f"mqtts://localhost:{server.port}", tls_ca=str(trust)))


def mail_server(scene, monkeypatch):
    return refusal(scene.client(scene.server(first=b"220 mail.lan ESMTP").url))


def database(scene, monkeypatch):
    """Its first byte is that of a CONNACK, but for its flags."""
    return refusal(scene.client(scene.server(b"-ERR unknown command").url))


def stops_answering(scene, monkeypatch):
    monkeypatch.setattr(connection, "KEEPALIVE_S", 1)
    return end(scene.client(scene.server(CONNACK_5).url, protocol="5"))


def other_authority(scene, monkeypatch):
    fleet, stranger = scene.fleet(), Authority.make(scene.directory / "stranger")
    return refusal(fleet.connect(fleet.issue("board-1"), trust=stranger.trust_path))


def other_name(scene, monkeypatch):
    fleet = scene.fleet()
    fleet.url = fleet.url.replace("localhost", "127.0.0.1")
    return refusal(fleet.connect(fleet.issue("board-1")))


def expired(scene, monkeypatch):
    old = Authority.make(scene.directory / "ca", clock=lambda: time.time() - 1000 * DAY)
    fleet = scene.fleet(authority=old)
    kept = fleet.keep(Authority(old.directory).issue(subject_of("board-1")))
    return refusal(fleet.connect(kept))


def not_yet_valid(scene, monkeypatch):
    monkeypatch.setattr(signing, "VALID_FROM", datetime.now(UTC) + timedelta(days=300))
    fleet = scene.fleet(authority=Authority.make(scene.directory / "ca"))
    return refusal(fleet.connect(fleet.keep(fleet.authority.issue(subject_of("board-1")))))


def clock_fell_back(scene, monkeypatch):
    fleet = scene.fleet()
    kept, later = fleet.issue("board-1"), time.time() + 800 * DAY
    (kept / LAST_MET).touch()
    os.utime(kept / LAST_MET, (later, later))
    return refusal(fleet.connect(kept))


def revoked(scene, monkeypatch):
    fleet = scene.fleet()
    kept = fleet.issue("board-1")
    fleet.authority.revoke("board-1")
    fleet.restart()
    return refusal(fleet.connect(kept))


def plaintext_to_another_machine(scene, monkeypatch):
    monkeypatch.setattr("tinyfleet.fedcore.tls.plaintext.loopback", lambda address: False)
    return refusal(scene.client(f"mqtt://127.0.0.1:{scene.mosquitto().port}"))


def no_client_certificate(scene, monkeypatch):
    fleet = scene.fleet()
    return refusal(scene.client(fleet.url, tls_ca=str(fleet.issue("board-1") / "trust")))


def tls_to_plaintext(scene, monkeypatch):
    return refusal(scene.client(f"mqtts://localhost:{scene.mosquitto().port}"))


def plaintext_to_tls(scene, monkeypatch):
    return refusal(scene.client(scene.fleet().url.replace("mqtts", "mqtt")))


def file_gone(scene, monkeypatch):
    context, trust = scene.certificate()
    server = scene.server(CONNACK_5, tls=context)
    transport = scene.client(f"mqtts://localhost:{server.port}", tls_ca=str(trust))
    assert transport.receive(PATIENCE_S) == Connected()
    trust.unlink()
    server.connections[0].close()
    refusal(transport)
    return refusal(transport)


def wrong_password(scene, monkeypatch):
    broker = scene.mosquitto(*password_lines(scene.directory, board="right"), anonymous=False)
    return refusal(scene.client(f"mqtt://127.0.0.1:{broker.port}", username="board", password="wrong"))


def no_password(scene, monkeypatch):
    broker = scene.mosquitto(*password_lines(scene.directory, board="right"), anonymous=False)
    return refusal(scene.client(f"mqtt://127.0.0.1:{broker.port}", protocol="3.1.1"))


def subscription_denied(scene, monkeypatch):
    broker = scene.mosquitto(*no_subscriptions(scene.directory))
    return refusal(scene.client(f"mqtt://127.0.0.1:{broker.port}", "tinyfleet/v1/board/down"))


def publish_denied(scene, monkeypatch):
    access = scene.directory / "acl"
    access.write_text("topic write allowed\n", encoding="utf-8")
    access.chmod(0o600)
    broker = scene.mosquitto(f"acl_file {access}")
    transport = scene.client(f"mqtt://127.0.0.1:{broker.port}")
    assert transport.receive(PATIENCE_S) == Connected()
    transport.publish("tinyfleet/v1/board/up", b"x")
    found = hindrance(transport)
    transport.publish("allowed", b"x")
    transport.publish("allowed", b"x")
    while transport.window_free < 16:
        time.sleep(0.01)
    assert transport.hindrance == found, "another topic proves nothing"
    return found


def hindrance(transport: MqttTransport) -> Cause:
    deadline = time.monotonic() + PATIENCE_S
    while (found := transport.hindrance) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def taken_over(scene, monkeypatch):
    server = scene.server(CONNACK_5 + b"\xe0\x02\x8e\x00")
    return end(scene.client(server.url, protocol="5"))


def taken_over_without_a_word(scene, monkeypatch):
    """As Mosquitto 2.0.11 does it."""
    url = f"mqtt://127.0.0.1:{scene.mosquitto().port}"
    first = scene.client(url)
    assert first.receive(PATIENCE_S) == Connected()
    scene.client(url)
    while "times soon" not in (found := refusal(first)).reason:
        assert first.receive(PATIENCE_S) == Connected()
    return found


def larger_than_announced(scene, monkeypatch):
    broker = scene.mosquitto("max_packet_size 2000")
    transport = scene.client(f"mqtt://127.0.0.1:{broker.port}")
    assert transport.receive(PATIENCE_S) == Connected()
    assert transport.payload_bytes("t") == 2000 - 17
    with pytest.raises(TransportError, match="2001 bytes for t are too many"):
        transport.publish("t", bytes(2001))
    assert transport.window_free == 16
    found = transport.hindrance
    transport.publish("t", bytes(1900))
    while transport.hindrance is not None:
        time.sleep(0.01)
    assert transport.connected
    return found


def busy(scene, monkeypatch):
    return refusal(scene.client(scene.server(SERVER_BUSY).url))


def no_qos_1(scene, monkeypatch):
    return refusal(scene.client(scene.server(TAKES_QOS_0).url))


def killed(scene, monkeypatch):
    broker = scene.mosquitto()
    transport = scene.client(f"mqtt://127.0.0.1:{broker.port}", reconnect_max_s=PATIENCE_S)
    assert transport.receive(PATIENCE_S) == Connected()
    broker.kill()
    return refusal(transport)


def breaks_what_handles_it(scene, monkeypatch):
    def broken(self, topic, message):
        raise RuntimeError("not thought of")

    monkeypatch.setattr(MqttTransport, "_received", broken)
    broker = scene.mosquitto()
    transport = scene.client(f"mqtt://127.0.0.1:{broker.port}", "t", reconnect_max_s=0.01)
    assert transport.receive(PATIENCE_S) == Connected()
    transport.publish("t", b"x")
    found = refusal(transport)
    assert transport.receive(PATIENCE_S) == Connected(), "the thread of the connections goes on"
    return found


K = CauseKind
CASES = {
    no_such_name: (K.NAME, "there is no host of that name"),
    no_dns: (K.NAME, "its name cannot be looked up now"),
    network_down: (K.NETWORK, "there is no way to that host (Network is unreachable)"),
    host_off: (K.NETWORK, "that host does not answer"),
    nobody_listens: (K.PORT, "nobody listens on that port"),
    never_answers: (K.SILENT, "it takes connections, and does not answer; is it an MQTT broker, or hung?"),
    never_answers_tls: (K.SILENT, "it takes connections, and does not answer TLS"),
    never_subscribes: (K.SILENT, "it does not answer the subscription"),
    web_server: (K.FOREIGN, "something else than an MQTT broker answers ('HTTP/1.1 400 Bad')"),
    web_server_with_tls: (K.FOREIGN, "something else than an MQTT broker answers ('HTTP/1.1 400 Bad')"),
    mail_server: (K.FOREIGN, "something else than an MQTT broker answers ('220 mail.lan ESM')"),
    database: (K.FOREIGN, "something else than an MQTT broker answers ('-ERR unknown com')"),
    stops_answering: (K.SILENT, "the broker has stopped answering"),
    other_authority: (K.TLS, "the broker's certificate is of an authority that is not in tls_ca"),
    other_name: (K.TLS, "the broker's certificate is for another name"),
    expired: (K.TLS, "the broker's certificate has expired by this board's clock"),
    not_yet_valid: (K.TLS, "which is before the broker's certificate is valid"),
    clock_fell_back: (K.TLS, "yet it met the broker on"),
    revoked: (K.TLS, "this client's certificate was revoked; ask the fleet's operator for a new one"),
    plaintext_to_another_machine: (K.TLS, "and plaintext goes to this one alone; give mqtts://"),
    no_client_certificate: (K.TLS, "the broker wants a client certificate"),
    tls_to_plaintext: (K.TLS, "give its TLS port, or mqtt:// for a plaintext one"),
    plaintext_to_tls: (K.TLS, "give mqtts://"),
    file_gone: (K.FILES, "trust.crt: No such file or directory; give a PEM file that this user may read"),
    wrong_password: (K.LOGIN, "Not authorized; check broker.username ('board') and broker.password_file"),
    no_password: (K.LOGIN, "Not authorized; give broker.username and broker.password_file"),
    subscription_denied: (K.ACCESS, "the broker refused the subscription to tinyfleet/v1/board/down"),
    publish_denied: (K.ACCESS, "the broker refuses publishes to tinyfleet/v1/board/up: Not authorized"),
    taken_over: (K.SESSION, "Session taken over; another client uses the id 'board'"),
    taken_over_without_a_word: (K.LOST, "times soon after it stood; does another client use the id 'board'"),
    larger_than_announced: (K.SIZE, "the broker takes packets of 2000 bytes at most; raise its limit"),
    busy: (K.REFUSED, "the broker refused the connection: Server busy"),
    no_qos_1: (K.REFUSED, "the broker takes QoS 0 alone"),
    killed: (K.LOST, "the connection was lost"),
    breaks_what_handles_it: (K.DEFECT, "this program broke on what came from it"),
}
QUICK = {never_answers, never_answers_tls, never_subscribes}
