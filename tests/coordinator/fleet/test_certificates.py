"""The coordinator's half of renewals: what it answers, whom it asks, when it renews its own."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.signing import FLEET_KEY
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.fleet import certificates as module
from tinyfleet.coordinator.fleet.authority import Authority, CertificateState
from tinyfleet.coordinator.fleet.certificates import Certificates
from tinyfleet.coordinator.service import Service
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.certificates.renewal import install, prepare
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import TinyfleetError
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.protocol.messages import CertificateInUse, RenewalGrant, RenewalRefused, RenewalWanted
from tinyfleet.fedcore.tls.context import TlsFiles


class Post:
    """What the coordinator sends, by device."""

    def __init__(self):
        self.sent = []

    def send(self, device, message):
        self.sent.append((device, message))
        return True

    def of(self, kind):
        return [(device, message) for device, message in self.sent if isinstance(message, kind)]


class Gateway:
    def __init__(self, directory):
        self.directory, self.now = directory, 1000.0
        self.post, self.reconnected = Post(), 0

    def tls(self, authority, name):
        made = authority.issue(subject_of(name))
        place = self.directory / name
        place.mkdir()
        (place / "key").touch(mode=0o600)
        for file, content in (("key", made.key), ("crt", made.certificate), ("trust", made.trust)):
            (place / file).write_bytes(content)
        return TlsFiles(*(str(place / file) for file in ("trust", "crt", "key")))

    def come_back(self):
        self.reconnected += 1

    def start(self, files=None, *, named=False):
        self.certificates = Certificates(
            self.directory / "authority",
            files,
            "",
            named=named,
            outgoing=self.post,
            reconnect=self.come_back,
            clock=lambda: self.now,
        )
        return self.certificates

    def look(self):
        """Time passes; what a thread does is waited for."""
        self.now += module.LOOK_S
        self.certificates.tick(self.now)
        end = time.monotonic() + PATIENCE_S
        while self.certificates._renewing:
            assert time.monotonic() < end
            self.certificates.tick(self.now)


@pytest.fixture
def gateway(tmp_path):
    return Gateway(tmp_path)


@pytest.fixture
def authority(tmp_path):
    return Authority.make(tmp_path / "authority")


def test_without_an_authority_a_device_hears_why(gateway, tmp_path, caplog):
    elsewhere = Authority.make(tmp_path / "elsewhere")
    tls = gateway.tls(elsewhere, "board-1")
    gateway.start().asked("board-1", prepare(tls))
    ((device, reply),) = gateway.post.sent
    assert device == "board-1"
    assert "holds no certificate authority in" in reply.reason
    assert "tinyfleet ca renew board-1" in reply.reason
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_authority_that_was_named_must_be_there(gateway):
    with pytest.raises(TinyfleetError, match="authority"):
        gateway.start(named=True)


def test_an_authority_that_others_may_read_is_said_to_the_device(gateway, authority, tmp_path):
    tls = gateway.tls(authority, "board-1")
    (tmp_path / "authority").chmod(0o755)
    gateway.start().asked("board-1", prepare(tls))
    assert "chmod 700" in gateway.post.sent[0][1].reason


def test_an_authority_that_is_made_later_is_found(gateway, tmp_path):
    gateway.start().tick(gateway.now)
    authority = Authority.make(tmp_path / "authority")
    tls = gateway.tls(authority, "board-1")
    authority.rotate()
    gateway.certificates.asked("board-1", prepare(tls))
    assert isinstance(gateway.post.sent[0][1], RenewalGrant)


def test_who_asks_again_and_again_waits_for_its_turn(gateway, authority):
    tls = gateway.tls(authority, "board-1")
    authority.rotate()
    gateway.start()
    for _ in range(50):
        gateway.certificates.asked("board-1", prepare(tls))
    assert len(gateway.post.sent) == 1
    gateway.now += module.SIGN_S / 2
    gateway.certificates.tick(gateway.now)
    assert len(gateway.post.sent) == 1
    gateway.now += module.SIGN_S / 2
    gateway.certificates.tick(gateway.now)
    assert len(gateway.post.sent) == 2, "the last of them is answered, not lost"
    gateway.now += module.SIGN_S
    gateway.certificates.tick(gateway.now)
    assert len(gateway.post.sent) == 2


def test_during_a_rotation_each_device_is_asked_until_it_has_renewed(gateway, authority):
    boards = {name: gateway.tls(authority, name) for name in ("board-1", "board-2")}
    gateway.start()
    gateway.look()
    for name in boards:
        gateway.certificates.heard(name)
    assert gateway.post.sent == []
    authority.rotate()
    gateway.look()
    for name in boards:
        gateway.certificates.heard(name)
    assert [device for device, _ in gateway.post.of(RenewalWanted)] == ["board-1"], "one after another"
    gateway.now += module.WANT_S
    for name in boards:
        gateway.certificates.heard(name)
    assert [device for device, _ in gateway.post.of(RenewalWanted)] == ["board-1", "board-2"]
    gateway.certificates.asked("board-1", prepare(boards["board-1"]))
    (grant,) = (message for _, message in gateway.post.of(RenewalGrant))
    serial = install(boards["board-1"], grant)
    gateway.certificates.in_use("board-1", CertificateInUse(serial))
    gateway.now += module.WANT_AGAIN_S
    for name in boards:
        gateway.certificates.heard(name)
    assert [device for device, _ in gateway.post.of(RenewalWanted)][2:] == ["board-2"]
    assert [row.generation for row in authority.certificates("board-1") if row.state == "active"] == [2]


def test_the_coordinator_goes_first(gateway, authority):
    """Its new certificate is tried at the broker: where that fails, no device is led into the same."""
    gateway.tls(authority, "board-1")
    own = gateway.tls(authority, "coordinator")
    gateway.start(own)
    gateway.look()
    authority.rotate()
    key = Path(own.key).read_bytes()
    Path(own.key).write_bytes(b"damaged")
    gateway.look()
    gateway.certificates.heard("board-1")
    assert gateway.post.sent == []
    Path(own.key).write_bytes(key)
    gateway.now += module.OWN_AFTER_FAULT_S
    gateway.look()
    assert gateway.reconnected == 1
    gateway.look()
    gateway.certificates.heard("board-1")
    assert [device for device, _ in gateway.post.of(RenewalWanted)] == ["board-1"]


def test_its_own_is_renewed_in_time_and_a_failure_is_a_warning(gateway, authority, caplog):
    caplog.set_level(logging.INFO)
    long_ago = Authority(authority.directory, clock=lambda: time.time() - 600 * 86400)
    own = gateway.tls(long_ago, "coordinator")
    written = time.time() - 600 * 86400
    os.utime(own.certificate, (written, written))
    trust = Path(own.authorities)
    content = trust.read_bytes()
    trust.write_bytes(b"no certificate")
    gateway.start(own)
    gateway.look()
    assert "the coordinator's own certificate is not renewed: " in caplog.text
    assert "holds no certificate in PEM form" in caplog.text
    assert gateway.reconnected == 0
    trust.write_bytes(content)
    gateway.now += module.OWN_AFTER_FAULT_S
    gateway.look()
    assert gateway.reconnected == 1
    assert [row.state for row in authority.certificates("coordinator")] == [
        CertificateState.ACTIVE,
        CertificateState.REPLACED,
    ]


def test_a_serial_number_of_nobodys_changes_nothing(gateway, authority):
    gateway.tls(authority, "board-1")
    gateway.start().in_use("board-1", CertificateInUse("12ab"))
    gateway.certificates.in_use("board-9", CertificateInUse("12ab"))
    assert [row.state for row in authority.certificates()] == [CertificateState.ACTIVE]


def test_whoever_names_certificates_on_and_on_is_heard_once_a_second(gateway, authority, monkeypatch):
    looked = []
    gateway.tls(authority, "board-1")
    gateway.start()
    monkeypatch.setattr(Authority, "confirm", lambda self, name, serial: looked.append(serial))
    for number in range(500):
        gateway.certificates.in_use("board-1", CertificateInUse(f"{number:x}"))
    gateway.now += module.NOTE_S
    gateway.certificates.tick(gateway.now)
    assert looked == ["0", f"{499:x}"], "the first, and the latest"


def test_only_accepted_devices_are_answered(tmp_path):
    """As with all else: who is pending or rejected is not served."""
    store = Store(tmp_path / "state", clock=lambda: 1.7e9)
    authority = Authority.make(tmp_path / "state" / "authority")
    service = Service(store, LoopTransport(LoopBroker(), "c"), CoordinatorConfig(), FLEET_KEY)
    try:
        request = prepare(Gateway(tmp_path).tls(authority, "board-1"))
        authority.rotate()
        service._on_message("board-1", request)
        assert len(authority.certificates("board-1")) == 1
        service._on_message("board-1", CertificateInUse("12ab"))
    finally:
        service.close()


def test_a_refusal_of_the_authority_reaches_the_device(gateway, authority):
    tls = gateway.tls(authority, "board-1")
    request = prepare(tls)
    authority.revoke("board-1")
    gateway.start().asked("board-1", request)
    ((_, reply),) = gateway.post.of(RenewalRefused)
    assert "not signed by the key of a valid certificate of board-1" in reply.reason
