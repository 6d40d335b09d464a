"""Renewal: the device's half, the coordinator's half, and both over the real broker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, received, until
from tinyfleet.coordinator.fleet.authority import Authority, CertificateState, answer, renew_own
from tinyfleet.coordinator.fleet.authority.renewals import GAP_S
from tinyfleet.fedcore.certificates.renewal import install, parse_certificates, prepare, read_certificate
from tinyfleet.fedcore.certificates.request import make_request, new_key, prove, read_key
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.messages import CertificateInUse, RenewalGrant, RenewalRefused, RenewalRequest
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected
from tinyfleet.fedcore.tls.context import TlsFiles, client_context
from tinyfleet.fedcore.tls.validity import serial_number


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
    """Key and certificate in one file."""
    made = authority.issue(subject_of(name))
    directory.mkdir(mode=0o700)
    (directory / "trust.crt").write_bytes(made.trust)
    (directory / "identity.pem").touch(mode=0o600)
    (directory / "identity.pem").write_bytes(made.key + made.certificate)
    return files_in(directory)


def files_in(directory):
    return TlsFiles(str(directory / "trust.crt"), str(directory / "identity.pem"))


def apart(authority, directory, name="board-1"):
    """As `tinyfleet ca issue` writes them: the key in a file of its own."""
    made = authority.issue(subject_of(name))
    directory.mkdir()
    for ending, content in ((".key", made.key), (".crt", made.certificate)):
        (directory / f"{name}{ending}").touch(mode=0o600)
        (directory / f"{name}{ending}").write_bytes(content)
    (directory / "trust.crt").write_bytes(made.trust)
    return TlsFiles(str(directory / "trust.crt"), str(directory / f"{name}.crt"), str(directory / f"{name}.key"))


def test_a_device_renews_with_a_new_key(authority, clock, tmp_path):
    tls = board(authority, tmp_path / "tls")
    identity = tmp_path / "tls" / "identity.pem"
    key = read_key(identity)
    clock.now += GAP_S
    grant = answer(authority, "board-1", prepare(tls))
    assert read_key(identity).private_numbers() == key.private_numbers()
    serial = install(tls, grant)
    assert identity.stat().st_mode & 0o777 == 0o600
    assert read_key(identity).private_numbers() != key.private_numbers()
    assert [row.state for row in authority.certificates("board-1")] == [
        CertificateState.OFFERED,
        CertificateState.ACTIVE,
    ]
    authority.confirm("board-1", serial)
    assert authority.certificates("board-1")[1].state is CertificateState.REPLACED
    assert install(tls, grant) == serial, "the answer may come twice"


def test_a_device_renews_with_its_key(authority, clock, tmp_path):
    """Where the key has a file of its own no rename could switch both."""
    tls = apart(authority, tmp_path / "tls")
    key = Path(tls.key).read_bytes()
    before = read_certificate(Path(tls.certificate))
    clock.now += GAP_S
    grant = answer(authority, "board-1", prepare(tls))
    serial = install(tls, grant)
    after = read_certificate(Path(tls.certificate))
    assert Path(tls.key).read_bytes() == key
    assert after.public_key() == before.public_key()
    assert f"{after.serial_number:x}" == serial
    assert serial == serial_number(Path(tls.certificate).read_text()), "without a certificate library"
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert install(tls, grant) == serial, "the answer may come twice"
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == ["board-1.crt", "board-1.key", "trust.crt"]


def test_a_directory_that_may_not_be_written_is_named_before_anybody_is_asked(authority, tmp_path, monkeypatch):
    tls = apart(authority, tmp_path / "tls")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path / "tls")
    with pytest.raises(ConfigError, match=r"may not be written by this user, so board-1\.crt cannot be replaced"):
        prepare(tls)


def test_an_offer_of_a_former_authority_is_not_made_again(authority, clock, tmp_path):
    tls = apart(authority, tmp_path / "tls")
    clock.now += GAP_S
    answer(authority, "board-1", prepare(tls))  # which is lost
    authority.rotate()
    install(tls, answer(authority, "board-1", prepare(tls)))
    assert authority.certificates("board-1")[0].generation == 2


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
        (tmp_path / "tls" / "next.key").unlink(missing_ok=True)
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
    assert len(parse_certificates((tmp_path / "tls" / "trust.crt").read_bytes())) == 2
    assert authority.certificates("board-1")[0].generation == 2


def test_the_coordinator_renews_its_own(authority, clock, tmp_path):
    tls = apart(authority, tmp_path / "tls", "coordinator")
    assert not renew_own(authority, tls)
    clock.now += 500 * 86400
    assert renew_own(authority, tls)
    os.utime(tls.certificate, (clock.now, clock.now))
    assert not renew_own(authority, tls)
    authority.rotate()
    assert renew_own(authority, tls)
    os.utime(tls.certificate, (clock.now, clock.now))
    assert not renew_own(authority, tls)
    assert authority.certificates("coordinator")[0].generation == 2
    assert len(authority.certificates("coordinator")) == 3


@given(st.text(max_size=300), st.binary(max_size=80), st.text(max_size=20))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused(authority, request_, proof, device):
    assert isinstance(answer(authority, device, RenewalRequest(request_, proof)), RenewalRefused)


def test_a_device_installs_only_what_it_asked_for(authority, clock, tmp_path):
    tls, other = board(authority, tmp_path / "tls"), board(authority, tmp_path / "other", "board-2")
    clock.now += GAP_S
    prepare(tls)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    stranger = Authority.make(tmp_path / "stranger")
    own = prepare(tls).request.encode()
    foreign = stranger.issue(subject_of("board-1"), request=own)
    shorter = authority.renew("board-1", request=own, days=3)
    renamed = stranger.issue(
        subject_of("board-2"), request=make_request(read_key(tmp_path / "tls" / "next.key"), subject_of("board-2"))
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
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before


@pytest.mark.parametrize("make", [board, pytest.param(apart, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_power_cut_at_any_write_leaves_a_pair_that_works(authority, clock, tmp_path, monkeypatch, make, when):
    """Key and certificate belong together, and the renewal goes on where it was."""
    tls = make(authority, tmp_path / "tls")
    authority.rotate()  # so that both files change
    cut_at, done = 0, False
    while not done:
        cut_at, writes = cut_at + 1, []

        def write(*given, writes=writes, cut_at=cut_at, **options):
            writes.append(given)
            if len(writes) == cut_at and when == "before":
                raise KeyboardInterrupt
            write_atomic(*given, **options)
            if len(writes) == cut_at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("tinyfleet.fedcore.certificates.renewal.write_atomic", write)
            try:
                install(tls, answer(authority, "board-1", prepare(tls)))
                done = True
            except KeyboardInterrupt:
                pass
        client_context(tls)
    assert cut_at >= 2, "no cut came before the last write"
    assert read_certificate(Path(tls.certificate)).serial_number == int(
        authority.certificates("board-1")[0].serial, 16
    )
    assert len(authority.certificates("board-1")) == 2


# -- at the broker ------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path, clock):
    if not MosquittoBroker.available():
        pytest.skip("mosquitto is not installed")
    made = MtlsFleet(tmp_path, authority=Authority.make(tmp_path / "authority", clock))
    yield made
    made.close()


@pytest.mark.parametrize("make", [board, pytest.param(apart, marks=pytest.mark.slow)])
def test_a_renewal_over_the_connection_that_it_renews(fleet, tmp_path, clock, make):
    """A board asks, installs, comes back with the new one, and says so; in child processes, as agents do."""
    tls = make(fleet.authority, tmp_path / "tls")
    clock.now += GAP_S
    coordinator = fleet.connect(fleet.issue("coordinator"), topics.ALL_UP)
    agent = MqttTransport(
        fleet.url,
        "any",
        tls_ca=tls.authorities,
        tls_cert=tls.certificate,
        tls_key=tls.key,
        reconnect_max_s=0.5,
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
    serial = child("install", tls, event.payload, fleet.url).decode()

    agent.reconnect()
    until(agent, Disconnected)
    until(agent, Connected)
    agent.publish(topics.up("board-1"), msgspec.json.encode(CertificateInUse(serial)))
    done = msgspec.json.decode(
        received(coordinator, msgspec.json.encode(CertificateInUse(serial)))[0].payload, type=CertificateInUse
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
    assert f"{read_certificate(Path(tls.certificate)).serial_number:x}" == serial


@pytest.mark.parametrize("make", [board, pytest.param(apart, marks=pytest.mark.slow)])
def test_a_certificate_that_the_broker_does_not_take_replaces_none(fleet, tmp_path, make):
    """A rotation of which the broker was not told: the present one stays, and works."""
    tls = make(fleet.authority, tmp_path / "tls")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    fleet.authority.rotate()
    grant = answer(fleet.authority, "board-1", prepare(tls))
    with pytest.raises(ConfigError, match=r"the present one stays: refused: .* that the broker does not trust"):
        install(tls, grant, fleet.url)
    after = {
        path.name: path.read_bytes()
        for path in (tmp_path / "tls").iterdir()
        if path.name not in ("next.key", "last-met")
    }
    assert after == before
    fleet.restart()  # which tells it
    assert install(tls, grant, fleet.url) == fleet.authority.certificates("board-1")[0].serial


def test_a_broker_that_is_away_takes_nothing(fleet, tmp_path, clock):
    tls = apart(fleet.authority, tmp_path / "tls")
    clock.now += GAP_S
    grant = answer(fleet.authority, "board-1", prepare(tls))
    fleet.stop()
    try:
        with pytest.raises(ConfigError, match="Connection refused"):
            install(tls, grant, fleet.url)
    finally:
        fleet.start()


def child(action, files, feed=b"", *arguments):
    names = (files.authorities, files.certificate, files.key or "")
    ran = subprocess.run(
        [sys.executable, "-m", "tinyfleet.fedcore.certificates.renewal", action, *names, *arguments],
        input=feed,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    return ran.stdout
