"""Renewal: the device's half, the coordinator's half, and both over the real broker."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, received, until
from tinyfleet.coordinator.fleet.authority import Authority, CertificateState, answer, renew_own
from tinyfleet.coordinator.fleet.authority.renewals import GAP_S
from tinyfleet.fedcore.certificates.messages import RenewalDone, RenewalGrant, RenewalRefused, RenewalRequest
from tinyfleet.fedcore.certificates.renewal import adopt, install, parse_certificates, prepare, read_certificate
from tinyfleet.fedcore.certificates.request import make_request, new_key, prove, read_key
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected


class Clock:
    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.make(tmp_path / "ca", clock)


def board(authority, directory, name="board-1"):
    made = authority.issue(subject_of(name))
    adopt(directory, made.key, made.certificate, made.trust)
    return directory


def test_a_device_renews_with_a_new_key(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    key = read_key(tls / "identity.pem")
    clock.now += GAP_S
    grant = answer(authority, "board-1", prepare(tls))
    assert read_key(tls / "identity.pem").private_numbers() == key.private_numbers()
    serial = install(tls, grant)
    assert (tls / "identity.pem").stat().st_mode & 0o777 == 0o600
    assert read_key(tls / "identity.pem").private_numbers() != key.private_numbers()
    assert [row.state for row in authority.certificates("board-1")] == [
        CertificateState.OFFERED,
        CertificateState.ACTIVE,
    ]
    authority.confirm("board-1", serial)
    assert authority.certificates("board-1")[1].state is CertificateState.REPLACED
    assert install(tls, grant) == serial, "the answer may come twice"


def test_a_device_renews_with_its_key(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    key = read_key(tls / "identity.pem")
    clock.now += GAP_S
    install(tls, answer(authority, "board-1", prepare(tls, same_key=True)))
    assert read_key(tls / "identity.pem").private_numbers() == key.private_numbers()


def test_a_lost_answer_is_given_again(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    clock.now += GAP_S
    first, second = (answer(authority, "board-1", prepare(tls)) for _ in range(2))
    assert first == second
    assert len(authority.certificates("board-1")) == 2


def test_asking_on_and_on_fills_nothing(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    clock.now += GAP_S
    for _ in range(5):
        (tls / "next.key").unlink(missing_ok=True)
        answer(authority, "board-1", prepare(tls))
    assert len(authority.certificates("board-1")) == 2
    refused = answer(authority, "board-1", RenewalRequest(prepare(tls).request, b"x"))
    assert isinstance(refused, RenewalRefused)


def test_who_does_not_hold_the_key_gets_nothing(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    clock.now += GAP_S
    thief = new_key()
    request = make_request(thief, subject_of("board-1"))
    for proof in (b"", prove(thief, request), prepare(tls).proof):
        refused = answer(authority, "board-1", RenewalRequest(request.decode(), proof))
        assert "not signed by the key" in refused.reason
    assert "not for 'board-2'" in answer(authority, "board-2", prepare(tls)).reason
    assert "name of a role" in answer(authority, "coordinator", prepare(tls)).reason
    authority.revoke("board-1")
    assert "not signed by the key of a valid" in answer(authority, "board-1", prepare(tls)).reason


def test_during_a_rotation_a_device_learns_whom_to_trust(authority, tmp_path):
    tls = board(authority, tmp_path / "tls")
    authority.rotate()
    install(tls, answer(authority, "board-1", prepare(tls)))  # at once: the gap is for one and the same authority
    assert len(parse_certificates((tls / "trust.crt").read_bytes())) == 2
    assert authority.certificates("board-1")[0].generation == 2


def test_the_coordinator_renews_its_own(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls", "coordinator")
    assert not renew_own(authority, tls)
    clock.now += 500 * 86400
    assert renew_own(authority, tls)
    os.utime(tls / "identity.pem", (clock.now, clock.now))
    assert not renew_own(authority, tls)
    authority.rotate()
    assert renew_own(authority, tls)
    os.utime(tls / "identity.pem", (clock.now, clock.now))
    assert not renew_own(authority, tls)
    assert authority.certificates("coordinator")[0].generation == 2


@given(st.text(max_size=300), st.binary(max_size=80), st.text(max_size=20))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(authority, request_, proof, device):
    assert isinstance(answer(authority, device, RenewalRequest(request_, proof)), RenewalRefused)


def test_a_device_installs_only_what_it_asked_for(authority, clock, tmp_path):
    tls, other = board(authority, tmp_path / "tls"), board(authority, tmp_path / "other", "board-2")
    clock.now += GAP_S
    prepare(tls)
    before = {path.name: path.read_bytes() for path in tls.iterdir()}
    stranger = Authority.make(tmp_path / "stranger")
    own = prepare(tls).request.encode()
    foreign = stranger.issue(subject_of("board-1"), request=own)
    shorter = authority.renew("board-1", request=own, days=3)
    renamed = stranger.issue(
        subject_of("board-2"), request=make_request(read_key(tls / "next.key"), subject_of("board-2"))
    )
    trust = authority.trust_path.read_text()
    for fault, grant in (
        ("another key", answer(authority, "board-2", prepare(other))),
        ("is for 'board-2'", RenewalGrant(renamed.certificate.decode(), renamed.trust.decode())),
        ("none of the authorities that came with it", RenewalGrant(foreign.certificate.decode(), trust)),
        ("is trusted here", RenewalGrant(foreign.certificate.decode(), foreign.trust.decode())),
        ("ends before", RenewalGrant(shorter.certificate.decode(), trust)),
        ("no certificate in PEM form", RenewalGrant("x", trust)),
        ("no certificate in PEM form", RenewalGrant(shorter.certificate.decode(), "x")),
    ):
        with pytest.raises(ConfigError, match=fault):
            install(tls, grant)
    assert {path.name: path.read_bytes() for path in tls.iterdir()} == before


@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_a_renewal_over_the_connection_that_it_renews(tmp_path, clock):
    """A board asks, installs, comes back with the new one, and says so; in child processes, as agents do."""
    fleet = MtlsFleet(tmp_path, authority=Authority.make(tmp_path / "authority", clock))
    try:
        tls = board(fleet.authority, tmp_path / "tls")
        clock.now += GAP_S
        coordinator = fleet.connect(fleet.issue("coordinator"), topics.ALL_UP)
        agent = MqttTransport(
            fleet.url, "any", tls_ca=str(tls / "trust.crt"), tls_cert=str(tls / "identity.pem"), reconnect_max_s=0.5
        )
        fleet.clients.append(agent)
        agent.open((topics.down("board-1"),))
        until(agent, Connected)
        until(coordinator, Connected)

        request = child("prepare", tls)
        agent.publish(topics.up("board-1"), request)
        (event,) = received(coordinator, request)
        grant = answer(
            fleet.authority, topics.device_of(event.topic), msgspec.json.decode(event.payload, type=RenewalRequest)
        )
        payload = msgspec.json.encode(grant)
        coordinator.publish(topics.down("board-1"), payload)
        (event,) = received(agent, payload)
        serial = child("install", tls, event.payload).decode()

        agent.reconnect()
        until(agent, Disconnected)
        until(agent, Connected)
        agent.publish(topics.up("board-1"), msgspec.json.encode(RenewalDone(serial)))
        done = msgspec.json.decode(
            received(coordinator, msgspec.json.encode(RenewalDone(serial)))[0].payload, type=RenewalDone
        )
        fleet.authority.confirm("board-1", done.serial)
        assert [row.state for row in fleet.authority.certificates("board-1")] == [
            CertificateState.ACTIVE,
            CertificateState.REPLACED,
        ]
        # Only the new one is good now: it is what the agent came back with.
        fleet.authority.revoke("board-1", serial=fleet.authority.certificates("board-1")[1].serial)
        fleet.restart()
        until(agent, Disconnected)
        until(agent, Connected)
        assert f"{read_certificate(tls / 'identity.pem').serial_number:x}" == serial
    finally:
        fleet.close()


def child(action, directory, feed=b""):
    ran = subprocess.run(
        [sys.executable, "-m", "tinyfleet.fedcore.certificates.renewal", action, str(directory)],
        input=feed,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout
