"""The authority in its directory: what it signs, what it refuses, what a crash leaves."""

from __future__ import annotations

import base64
import multiprocessing
import random
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.coordinator.fleet.authority import Authority, AuthorityError, CertificateState
from tinyfleet.fedcore.certificates.renewal import parse_certificate, parse_certificates
from tinyfleet.fedcore.certificates.request import make_request, new_key, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject, comparable, subject_of
from tinyfleet.fedcore.errors import ConfigError

DAY = 86400.0


class Clock:
    def __init__(self):
        self.now = 1.8e9

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.make(tmp_path / "ca", clock)


def states(authority, name):
    return [row.state for row in authority.certificates(name)]


def revoked_serials(authority):
    lists = x509.load_pem_x509_crl
    blocks = authority.revoked_path.read_bytes().split(b"-----BEGIN")[1:]
    return [
        (crl.last_update_utc, {entry.serial_number for entry in crl})
        for crl in (lists(b"-----BEGIN" + block) for block in blocks)
    ]


# -- its directory ------------------------------------------------------------------------


def test_keys_are_for_the_owner_alone(authority):
    authority.issue(subject_of("board-1"))
    assert stat.S_IMODE(authority.directory.stat().st_mode) == 0o700
    for path in (authority.directory / "authority-1.key", authority.directory / "index.db"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("name", "mode", "remedy"), [("", 0o755, "700"), ("authority-1.key", 0o640, "600"), ("index.db", 0o604, "600")]
)
def test_loose_permissions_are_refused_with_the_remedy(authority, name, mode, remedy):
    path = authority.directory / name if name else authority.directory
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod {remedy} {path}"):
        Authority(authority.directory)
    path.chmod(int(remedy, 8))
    Authority(authority.directory)


def test_there_is_one_authority_a_directory(authority, tmp_path):
    with pytest.raises(AuthorityError, match="holds an authority already"):
        Authority.make(authority.directory)
    with pytest.raises(AuthorityError, match="tinyfleet ca init"):
        Authority(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="not empty"):
        Authority.make(tmp_path / "full")


def test_two_authorities_have_two_names(tmp_path):
    one, two = (
        parse_certificate(Authority.make(tmp_path / name).trust_path.read_bytes()).subject
        for name in ("one", "two")
    )
    assert one != two


def test_a_clock_that_was_never_set_signs_nothing(tmp_path):
    with pytest.raises(ConfigError, match="clock says 1970-01-01"):
        Authority.make(tmp_path / "ca", lambda: 60.0)


def test_a_lost_index_is_named(authority):
    (authority.directory / "index.db").write_bytes(b"not a database" * 100)
    with pytest.raises(AuthorityError, match=r"index\.db"):
        Authority(authority.directory)


# -- certificates -------------------------------------------------------------------------


def test_a_certificate_says_who_its_holder_is_and_what_for(authority, clock):
    made = authority.issue(subject_of("board-1"))
    certificate = parse_certificate(made.certificate)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "board-1"
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value == "device"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    certificate.verify_directly_issued_by(parse_certificate(made.trust))
    assert certificate.not_valid_before_utc == datetime(2022, 1, 1, tzinfo=UTC), (
        "boards without a battery start there"
    )
    assert certificate.not_valid_after_utc.timestamp() == clock.now + 730 * DAY
    assert made.row.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert comparable(made.row.fingerprint).replace(" ", "").lower() == made.row.fingerprint[:16]


def test_a_brokers_certificate_holds_its_names(authority):
    made = authority.issue(subject_of("broker"), hosts=["Gateway.lan", "192.168.1.7", "gateway.lan", "fd00::1"])
    names = (
        parse_certificate(made.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    assert names.get_values_for_type(x509.DNSName) == ["gateway.lan"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.7", "fd00::1"]


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a b"], ["../x"], ["*"], ["-a"], ["a" * 64], ["1.2.3"], ["a..b"], ["é"], ["a\nb"]]
)
def test_a_broker_without_a_decent_name_gets_none(authority, hosts):
    with pytest.raises(ConfigError, match=r"--host|gateway\.lan"):
        authority.issue(subject_of("broker"), hosts=hosts)
    assert authority.certificates() == []


def test_hosts_are_the_brokers_alone(authority):
    with pytest.raises(ConfigError, match="hosts are for the broker"):
        authority.issue(subject_of("board-1"), hosts=["gateway.lan"])


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "a/b", "é", "a" * 65, "-a", "a\n", "device", "authority"])
def test_a_name_that_is_no_devices_is_refused(name):
    with pytest.raises(ConfigError, match="name"):
        subject_of(name)


def test_a_device_cannot_be_called_as_a_role():
    with pytest.raises(ConfigError, match="name of a role"):
        Subject(CertificateRole.DEVICE, "coordinator")
    with pytest.raises(ConfigError, match="'coordinator'"):
        Subject(CertificateRole.COORDINATOR, "board-1")


def test_one_certificate_a_name_unless_it_is_renewed(authority, clock):
    first = authority.issue(subject_of("board-1"))
    with pytest.raises(AuthorityError, match="tinyfleet ca renew board-1"):
        authority.issue(subject_of("board-1"))
    with pytest.raises(AuthorityError, match="no valid certificate to renew"):
        authority.renew("board-2")
    second = authority.renew("board-1", confirmed=False)
    assert states(authority, "board-1") == [CertificateState.OFFERED, CertificateState.ACTIVE]
    authority.confirm("board-1", second.row.serial)
    assert states(authority, "board-1") == [CertificateState.ACTIVE, CertificateState.REPLACED]
    clock.now += 800 * DAY
    assert set(states(authority, "board-1")) == {CertificateState.EXPIRED}
    authority.issue(subject_of("board-1"))
    with pytest.raises(AuthorityError, match="serial"):
        authority.confirm("board-2", first.row.serial)


def test_a_certificate_never_outlives_its_authority(authority):
    made = authority.issue(subject_of("board-1"), days=7300 * 2)
    trust = parse_certificate(made.trust)
    assert parse_certificate(made.certificate).not_valid_after_utc == trust.not_valid_after_utc


# -- requests -----------------------------------------------------------------------------


def test_with_a_request_the_key_is_never_seen(authority):
    key = new_key()
    made = authority.issue(subject_of("board-1"), request=make_request(key, subject_of("board-1")))
    assert made.key is None
    assert parse_certificate(made.certificate).public_key() == key.public_key()


def test_what_a_request_asks_for_beside_its_key_is_ignored(authority):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "board-1")])
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.lan")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(new_key(), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    certificate = parse_certificate(authority.issue(subject_of("board-1"), request=greedy).certificate)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def requests():
    board = subject_of("board-1")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "board-1")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    good = make_request(new_key(), board)
    der = x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER)
    damaged = der[:-4] + bytes(byte ^ 1 for byte in der[-4:])
    block = base64.encodebytes(damaged)
    yield "not a certificate request", b"nonsense"
    yield "not a certificate request", b""
    yield "at most 4096", good + b"\n" * 5000
    yield "not for 'board-1'", make_request(new_key(), subject_of("board-2"))
    weak = rsa.generate_private_key(65537, 2048)
    yield "P-256", builder.sign(weak, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    other = ec.generate_private_key(ec.SECP384R1())
    yield "P-256", builder.sign(other, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    yield (
        "not signed by its own key",
        b"-----BEGIN CERTIFICATE REQUEST-----\n" + block + b"-----END CERTIFICATE REQUEST-----\n",
    )


@pytest.mark.parametrize(("fault", "request_"), list(requests()))
def test_a_bad_request_gets_nothing(authority, fault, request_):
    with pytest.raises(ConfigError, match=fault):
        authority.issue(subject_of("board-1"), request=request_)
    assert authority.certificates() == []


GOOD = x509.load_pem_x509_csr(make_request(new_key(), subject_of("board-1"))).public_bytes(
    serialization.Encoding.DER
)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_byte_makes_a_request_void(at, change):
    damaged = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
    block = base64.encodebytes(damaged).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{block}-----END CERTIFICATE REQUEST-----\n".encode()
    with pytest.raises(ConfigError):
        read_request(pem, subject_of("board-1"))


# -- revocation ---------------------------------------------------------------------------


def test_every_list_is_later_than_the_one_before(authority):
    """OpenSSL ignores a second list of the same date, and this clock stands still."""
    dates = []
    for name in ("board-1", "board-2", "board-3"):
        authority.issue(subject_of(name))
        rows = authority.revoke(name, "stolen")
        assert [(row.state, row.reason) for row in rows] == [(CertificateState.REVOKED, "stolen")]
        ((date, serials),) = revoked_serials(authority)
        assert int(rows[0].serial, 16) in serials
        dates.append(date)
    assert dates == sorted(set(dates))
    assert len(serials) == 3
    assert dates[-1].timestamp() < time.time(), "a list of the future would shut everybody out"


def test_a_name_is_revoked_with_all_that_it_has(authority):
    authority.issue(subject_of("board-1"))
    authority.renew("board-1")
    third = authority.renew("board-1", confirmed=False)
    assert len(authority.revoke("board-1", serial=third.row.serial)) == 1
    assert len(authority.revoke("board-1")) == 2
    assert set(states(authority, "board-1")) == {CertificateState.REVOKED}
    with pytest.raises(AuthorityError, match="no valid certificate"):
        authority.revoke("board-1")
    authority.issue(subject_of("board-1"))


def test_a_crash_between_index_and_list_is_made_good(authority, monkeypatch):
    authority.issue(subject_of("board-1"))
    before = revoked_serials(authority)

    def power_cut(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tinyfleet.coordinator.fleet.authority.authority.publish", power_cut)
        with pytest.raises(KeyboardInterrupt):
            authority.revoke("board-1")
    assert revoked_serials(authority) == before
    again = Authority(authority.directory)
    serial = int(again.certificates("board-1")[0].serial, 16)
    assert [serials for _, serials in revoked_serials(again)] == [{serial}]


def test_a_list_that_was_put_back_is_written_again(authority):
    old = authority.revoked_path.read_bytes()
    authority.issue(subject_of("board-1"))
    authority.revoke("board-1")
    new = authority.revoked_path.read_bytes()
    authority.revoked_path.write_bytes(old)
    Authority(authority.directory)
    assert len(revoked_serials(authority)[0][1]) == 1
    assert authority.revoked_path.read_bytes().split(b"\n")[0] == new.split(b"\n")[0]


def _issue_some(directory, prefix):
    authority = Authority(directory)
    for number in range(5):
        authority.issue(subject_of(f"{prefix}-{number}"))
        authority.revoke(f"{prefix}-{number}")


def test_processes_do_not_lose_each_others_changes(authority):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_issue_some, args=(authority.directory, prefix)) for prefix in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    serials = {int(row.serial, 16) for row in authority.certificates()}
    assert len(serials) == 10
    assert [found for _, found in revoked_serials(authority)] == [serials]


# -- rotation -----------------------------------------------------------------------------


def test_a_rotation_from_begin_to_end(authority, clock):
    for name in ("board-1", "coordinator"):
        authority.issue(subject_of(name))
    authority.issue(subject_of("broker"), hosts=["gateway.lan"])
    assert not authority.behind("board-1")
    assert authority.rotate() == 2
    assert authority.behind("board-1")
    assert len(parse_certificates(authority.trust_path.read_bytes())) == 2
    assert len(revoked_serials(authority)) == 2, "without a list of its own nobody of the new authority comes in"
    with pytest.raises(AuthorityError, match="under way"):
        authority.rotate()
    assert authority.issue(subject_of("board-2")).row.generation == 2
    with pytest.raises(AuthorityError, match="board-1, broker, coordinator"):
        authority.retire()
    assert authority.renew("broker").row.generation == 1, "devices that were not renewed trust only the old one"
    offered = authority.renew("board-1", confirmed=False)
    authority.renew("coordinator")
    with pytest.raises(AuthorityError, match="board-1"):
        authority.retire()
    assert authority.behind("board-1"), "it may never have got the new one"
    authority.confirm("board-1", offered.row.serial)
    assert not authority.behind("board-1")
    assert authority.renew("broker").row.generation == 2
    assert authority.retire() == 1
    assert authority.behind("board-1"), "it still trusts the old authority"
    clock.now += 1.0
    authority.renew("board-1")
    assert not authority.behind("board-1")
    assert len(parse_certificates(authority.trust_path.read_bytes())) == 1
    assert not (authority.directory / "authority-1.key").exists()
    assert states(authority, "board-1") == [
        CertificateState.ACTIVE,
        CertificateState.REPLACED,
        CertificateState.RETIRED,
    ]
    with pytest.raises(AuthorityError, match="no older authority"):
        authority.retire()
    assert authority.rotate() == 3


def test_a_forced_retirement_shuts_out_who_was_not_renewed(authority):
    authority.issue(subject_of("board-1"))
    authority.rotate()
    authority.retire(force=True)
    assert states(authority, "board-1") == [CertificateState.RETIRED]
    assert authority.issue(subject_of("board-1")).row.generation == 2


# -- kills ----------------------------------------------------------------------------------


def _change_for_ever(directory, number):
    authority = Authority(directory)
    while True:
        number += 1
        authority.issue(subject_of(f"board-{number}"))
        print(f"issued board-{number}", flush=True)  # noqa: T201
        if number % 2:
            authority.revoke(f"board-{number}")
            print(f"revoked board-{number}", flush=True)  # noqa: T201


@pytest.mark.slow
def test_a_kill_loses_nothing_that_was_said(authority):
    """Killed at any instant: what was announced is in index and list, and the next process goes on."""
    random_ = random.Random(7)
    told = {"issued": set(), "revoked": set()}
    for turn in range(12):
        code = (
            "import sys; from pathlib import Path; "
            "from tests.coordinator.fleet.test_authority import _change_for_ever; "
            f"_change_for_ever(Path(sys.argv[1]), {turn * 1000})"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(authority.directory)], stdout=subprocess.PIPE, text=True
        ) as process:
            lines = [process.stdout.readline() for _ in range(random_.randint(1, 12))]
            time.sleep(random_.random() * 0.02)  # where in the next change it dies
            process.kill()
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith("\n") and line.strip():
                what, name = line.split()
                told[what].add(name)
        opened = Authority(authority.directory)
        rows = {row.name: row for row in opened.certificates()}
        assert told["issued"] <= set(rows)
        assert all(rows[name].state is CertificateState.REVOKED for name in told["revoked"])
        revoked = {int(row.serial, 16) for row in rows.values() if row.state is CertificateState.REVOKED}
        assert [serials for _, serials in revoked_serials(opened)] == [revoked]
        assert not list(authority.directory.glob(".*.tmp"))
    assert len(told["issued"]) > 12
    assert told["revoked"]
