"""One sentence for each thing that can be wrong between a client and a broker's TLS."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.coordinator.fleet.mtls_fleet import MtlsFleet, refused, until
from tinyfleet.coordinator.fleet.authority import Authority, signing
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected
from tinyfleet.fedcore.tls.context import TlsFiles, client_context
from tinyfleet.fedcore.tls.faults import explain, hung_up_unheard

DAY = 86400.0

needs_broker = pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")


@pytest.fixture
def fleet(tmp_path):
    made = MtlsFleet(tmp_path)
    yield made
    made.close()


@needs_broker
def test_another_authority_in_tls_ca(fleet, tmp_path):
    stranger = Authority.make(tmp_path / "stranger")
    client = fleet.connect(fleet.issue("board-1"), trust=stranger.trust_path)
    reason = refused(client)
    assert "an authority that is not in tls_ca" in reason
    assert reason.startswith(f"localhost:{fleet.port}: ")
    assert client.fault == reason


@needs_broker
def test_another_name(fleet):
    fleet.url = fleet.url.replace("localhost", "127.0.0.1")
    reason = refused(fleet.connect(fleet.issue("board-1")))
    assert "for another name" in reason
    assert "127.0.0.1" in reason


@needs_broker
def test_a_broker_whose_certificate_expired(tmp_path):
    long_ago = Authority.make(tmp_path / "ca", clock=lambda: time.time() - 1000 * DAY)
    fleet = MtlsFleet(tmp_path, authority=long_ago)
    try:
        kept = fleet.keep(Authority(long_ago.directory).issue(subject_of("board-1")))
        assert "the broker's certificate has expired by this board's clock" in refused(fleet.connect(kept))
    finally:
        fleet.close()


@needs_broker
def test_a_board_whose_clock_was_never_set(tmp_path, monkeypatch):
    """The same to OpenSSL: the certificate begins in the future of the board's clock."""
    monkeypatch.setattr(signing, "VALID_FROM", datetime.now(UTC) + timedelta(days=300))
    fleet = MtlsFleet(tmp_path, authority=Authority.make(tmp_path / "ca"))
    try:
        reason = refused(fleet.connect(fleet.keep(fleet.authority.issue(subject_of("board-1")))))
        assert f"this board's clock says {time.strftime('%Y-%m')}" in reason
        assert "trying again until the time is set" in reason
    finally:
        fleet.close()


def test_the_clock_of_1970_is_told():
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code, error.verify_message = 9, "certificate is not yet valid"
    context = client_context(TlsFiles())
    context.note(error)
    assert "this board's clock says 1970-01-01 00:01 UTC" in explain(context, TlsFiles(), now=60.0)


@needs_broker
def test_the_clock_of_1970_beside_an_own_certificate(fleet, monkeypatch):
    kept = fleet.issue("board-1")
    monkeypatch.setattr("tinyfleet.fedcore.tls.faults.time.time", lambda: 60.0)
    said = hung_up_unheard(TlsFiles(None, str(kept / "crt"), str(kept / "key")))
    assert "clock says 1970-01-01 00:01 UTC, before its own certificate is valid (2022-01-01" in said


@needs_broker
def test_tls_to_a_plaintext_port(tmp_path):
    broker = MosquittoBroker(tmp_path)
    port = broker.start()
    client = MqttTransport(f"mqtts://localhost:{port}", "x", reconnect_max_s=0.5)
    client.open(("t",))
    try:
        assert "give its TLS port, or mqtt:// for a plaintext one" in refused(client)
    finally:
        client.close()
        broker.stop()


@needs_broker
def test_plaintext_to_a_tls_port(fleet):
    client = MqttTransport(fleet.url.replace("mqtts", "mqtt"), "x", reconnect_max_s=0.5)
    client.open(("t",))
    try:
        assert "if that is a TLS port, give mqtts://" in refused(client)
    finally:
        client.close()


@pytest.mark.slow
@needs_broker
def test_a_reason_is_told_once_and_forgotten_once_it_stands(fleet):
    kept = fleet.issue("board-1")
    good = (kept / "crt").read_bytes()
    (kept / "crt").write_bytes(fleet.authority.renew("broker", request=None).certificate)
    # The file on disk changes under a running client: half written, then whole.
    with pytest.raises(ConfigError, match="not that of the certificate"):
        fleet.connect(kept)
    (kept / "crt").write_bytes(good)
    client = fleet.connect(kept)
    until(client, Connected)
    assert client.fault == ""
    (kept / "crt").write_bytes(b"half a certifi")
    client.reconnect()
    until(client, Disconnected)
    assert "tls_cert" in until(client, Disconnected).reason
    assert client.receive(2.0) is None, "the same reason again"
    (kept / "crt").write_bytes(good)
    until(client, Connected)
    assert client.fault == ""


# -- files ----------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    made = Authority.make(tmp_path / "ca").issue(subject_of("board-1"))
    (tmp_path / "trust").write_bytes(made.trust)
    (tmp_path / "crt").write_bytes(made.certificate)
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_bytes(made.key)
    return tmp_path


def transport(directory, ca="trust", cert="crt", key="key", url="mqtts://localhost"):
    named = [None if name is None else str(directory / name) for name in (ca, cert, key)]
    return MqttTransport(url, "x", tls_ca=named[0], tls_cert=named[1], tls_key=named[2])


def test_good_files_are_taken(files):
    transport(files)
    (files / "both").touch(mode=0o600)
    (files / "both").write_bytes((files / "key").read_bytes() + (files / "crt").read_bytes())
    transport(files, cert="both", key=None)


@pytest.mark.parametrize("option", ["ca", "cert", "key"])
def test_a_missing_file_is_named(files, option):
    with pytest.raises(ConfigError, match=f"tls_{option}: .*nowhere: No such file"):
        transport(files, **{option: "nowhere"})


@pytest.mark.parametrize("option", ["ca", "cert", "key"])
def test_a_broken_file_is_named(files, option):
    (files / "broken").touch(mode=0o600)
    (files / "broken").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"tls_.*broken"):
        transport(files, **{option: "broken"})


def test_a_key_that_everybody_may_read_is_refused(files):
    (files / "key").chmod(0o644)
    with pytest.raises(ConfigError, match=f"chmod 600 {files / 'key'}"):
        transport(files)


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(files):
    from cryptography.hazmat.primitives import serialization

    from tinyfleet.fedcore.certificates.request import read_key

    locked = read_key(files / "key").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (files / "key").write_bytes(locked)
    with pytest.raises(ConfigError, match="passphrase"):
        transport(files)


def test_options_that_do_not_go_together(files):
    with pytest.raises(ConfigError, match="without tls_cert"):
        transport(files, cert=None)
    with pytest.raises(ConfigError, match="plaintext"):
        transport(files, url="mqtt://localhost")
    transport(files, cert=None, key=None, url="mqtt://localhost")
