"""The authority in its directory: what it signs, what it refuses, what a crash leaves."""

from __future__ import annotations

import base64
import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.coordinator.fleet.authority import Authority, AuthorityError, CertificateState
from tinyfleet.fedcore.certificates.renewal import parse_certificate
from tinyfleet.fedcore.certificates.request import make_request, new_key, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject, comparable, subject_of
from tinyfleet.fedcore.errors import ConfigError

DAY = 86400.0


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
