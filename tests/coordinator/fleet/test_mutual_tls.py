"""Who may do what at the real broker, as `tinyfleet broker config` sets it up."""

from __future__ import annotations

import signal
import socket
import ssl
import time

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, received, refused, until
from tests.patience import PATIENCE_S
from tinyfleet.coordinator.fleet.authority import Authority
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected, Received

pytestmark = pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")


@pytest.fixture
def fleet(tmp_path):
    made = MtlsFleet(tmp_path)
    yield made
    made.close()


def test_each_talks_on_its_own_topics(fleet):
    coordinator = fleet.connect(fleet.issue("coordinator"), topics.ALL_UP, topics.ALL_UP_CHUNKS)
    board = fleet.connect(fleet.issue("board-1"), topics.down("board-1"), topics.down_chunk("board-1"))
    until(coordinator, Connected)
    until(board, Connected)
    board.publish(topics.up("board-1"), b"up")
    board.publish(topics.up_chunk("board-1"), b"up chunk")
    assert [event.topic for event in received(coordinator, b"up chunk")] == [
        topics.up("board-1"),
        topics.up_chunk("board-1"),
    ]
    coordinator.publish(topics.down("board-1"), b"down")
    coordinator.publish(topics.down_chunk("board-1"), b"down chunk")
    assert len(received(board, b"down chunk")) == 2


def test_the_settings_of_both_daemons_lead_in(fleet):
    """As coordinator.toml and agent.toml name the three files."""
    for name in ("coordinator", "board-1"):
        kept = fleet.issue(name)
        settings = BrokerSettings(
            fleet.url, tls_ca=str(kept / "trust"), tls_cert=str(kept / "crt"), tls_key=str(kept / "key")
        )
        transport = settings.transport(name)
        fleet.clients.append(transport)
        transport.open((topics.down("board-1"),))
        until(transport, Connected)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_device_neither_reads_nor_writes_what_is_anothers(fleet, protocol):
    coordinator = fleet.connect(fleet.issue("coordinator"), topics.ALL_UP, "tinyfleet/v1/#")
    thief = fleet.connect(
        fleet.issue("board-1"),
        topics.down("board-1"),
        topics.down("board-2"),
        topics.ALL_UP,
        "tinyfleet/v1/#",
        "#",
        protocol=protocol,
    )
    until(coordinator, Connected)
    until(thief, Connected)
    for topic in (topics.up("board-2"), topics.down("board-2"), topics.down("board-1"), "elsewhere"):
        thief.publish(topic, b"forged")
    thief.publish(topics.up("board-1"), b"own")
    assert {event.topic for event in received(coordinator, b"own")} == {topics.up("board-1")}
    coordinator.publish(topics.down("board-2"), b"secret")
    coordinator.publish(topics.up("board-2"), b"as of board 2")
    coordinator.publish(topics.down("board-1"), b"yours")
    assert {(event.topic, event.payload) for event in received(thief, b"yours")} == {
        (topics.down("board-1"), b"yours")
    }


def test_a_device_cannot_take_the_coordinators_session(fleet):
    coordinator = fleet.connect(fleet.issue("coordinator"), topics.ALL_UP, client_id="coordinator")
    until(coordinator, Connected)
    for number, client_id in enumerate(("coordinator", "board-2", "tinyfleet-coordinator")):
        thief = fleet.connect(fleet.issue(f"thief-{number}"), client_id=client_id)
        until(thief, Connected)
        thief.publish(topics.up(f"thief-{number}"), client_id.encode())
        assert len(received(coordinator, client_id.encode())) == 1
    assert coordinator.connected


@pytest.mark.slow
def test_the_broker_tells_its_figures_to_the_coordinator_alone(fleet):
    coordinator = fleet.connect(fleet.issue("coordinator"), "$SYS/broker/#")
    board = fleet.connect(fleet.issue("board-1"), topics.down("board-1"), "$SYS/#", "$SYS/broker/uptime")
    until(board, Connected)
    while until(coordinator, Received).topic != "$SYS/broker/uptime":
        pass
    coordinator.publish(topics.down("board-1"), b"last")
    assert [event.topic for event in received(board, b"last")] == [topics.down("board-1")]


def test_without_a_certificate_nobody_comes_in(fleet):
    trust = fleet.authority.trust_path
    assert "the broker wants a client certificate" in refused(fleet.connect(None, trust=trust))


def test_with_a_strangers_certificate_nobody_comes_in(fleet, tmp_path):
    stranger = fleet.keep(Authority.make(tmp_path / "stranger").issue(subject_of("coordinator")))
    reason = refused(fleet.connect(stranger, trust=fleet.authority.trust_path))
    assert "an authority that the broker does not trust" in reason


def test_with_an_expired_certificate_nobody_comes_in(fleet):
    long_ago = Authority(fleet.authority.directory, clock=lambda: time.time() - 10 * 86400)
    reason = refused(fleet.connect(fleet.keep(long_ago.issue(subject_of("board-1"), days=3))))
    assert "this client's certificate expired on 20" in reason


def test_a_device_does_not_pass_for_the_broker(fleet, tmp_path):
    """Its certificate is none for a server, even if its name were right."""
    kept = fleet.issue("localhost")
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(kept / "crt", kept / "key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        fleet.url = f"mqtts://localhost:{server.getsockname()[1]}"
        board = fleet.connect(fleet.issue("board-1"), protocol="5")  # one connection an attempt
        connection, _ = server.accept()
        with pytest.raises(ssl.SSLError), connection:
            listener.wrap_socket(connection, server_side=True)
        reason = refused(board)
    assert "not a broker's" in reason


def test_the_brokers_certificate_is_none_for_a_client(fleet):
    made = fleet.authority.renew("broker")
    assert "certificate is not for a client" in refused(fleet.connect(fleet.keep(made)))


# -- revocation ---------------------------------------------------------------------------


def test_a_revoked_device_is_out_and_the_others_come_back(fleet):
    good, bad = (fleet.connect(fleet.issue(name), topics.down(name)) for name in ("good", "bad"))
    until(good, Connected)
    until(bad, Connected)
    fleet.authority.revoke("bad", "stolen")
    fleet.restart()
    until(bad, Disconnected)
    assert "this client's certificate was revoked" in refused(bad)
    until(good, Disconnected)
    until(good, Connected)


def test_an_old_tls_session_is_no_way_around_a_revocation(fleet):
    kept = fleet.issue("bad")
    context = ssl.create_default_context(cafile=kept / "trust")
    context.load_cert_chain(kept / "crt", kept / "key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where a session is known before anything is read

    def connected(session=None):
        plain = socket.create_connection(("127.0.0.1", fleet.port), PATIENCE_S)
        return context.wrap_socket(plain, server_hostname="localhost", session=session)

    with connected() as first:
        session = first.session
    with connected(session) as second:
        assert second.session_reused, "the broker resumes no session: this test shows nothing"
    fleet.authority.revoke("bad")
    fleet.restart()
    with pytest.raises(ssl.SSLError, match="REVOKED"):
        connected(session)


def test_a_reload_shuts_out_new_connections_but_ends_none(fleet):
    """Why a revocation restarts the broker: what SIGHUP does, in the Mosquitto that is installed."""
    kept = fleet.issue("bad")
    stands = fleet.connect(kept, topics.down("bad"))
    until(stands, Connected)
    fleet.authority.revoke("bad")
    refreshed = fleet.authority.revoked_path.read_bytes()
    (fleet.broker / "revoked.crl").write_bytes(refreshed)
    fleet.signal(signal.SIGHUP)
    end = time.monotonic() + PATIENCE_S
    while True:  # until the broker has read it
        again = fleet.connect(kept)
        event = again.receive(PATIENCE_S)
        again.close()
        if isinstance(event, Disconnected):
            break
        assert time.monotonic() < end
        stands = fleet.connect(kept, topics.down("bad"))  # the attempt took its session over
        until(stands, Connected)
    assert "revoked" in event.reason
    coordinator = fleet.connect(fleet.issue("coordinator"))
    until(coordinator, Connected)
    coordinator.publish(topics.down("bad"), b"still served")
    assert received(stands, b"still served")


# -- rotation -----------------------------------------------------------------------------


@pytest.mark.slow
def test_old_and_new_certificates_both_work_until_the_old_authority_is_retired(fleet):
    before = fleet.issue("before")
    moved = fleet.issue("moved")
    fleet.authority.rotate()
    fleet.restart()
    after = fleet.issue("after")
    for kept in (before, moved, after):
        until(fleet.connect(kept), Connected)
    moved = fleet.keep(fleet.authority.renew("moved"))
    until(fleet.connect(moved), Connected)
    # "before" trusts the old authority alone: the broker's certificate is still of it.
    fleet.authority.retire(force=True)
    fleet.restart()
    for kept in (moved, after):
        until(fleet.connect(kept), Connected)
    reason = refused(fleet.connect(before))
    assert "an authority that is not in tls_ca" in reason
    assert "does not trust" in refused(fleet.connect(before, trust=fleet.authority.trust_path))
