"""What the authority signs: its own certificate, others' certificates, revocation lists (RFC 5280)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tinyfleet.fedcore.certificates.request import HASH
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject
from tinyfleet.fedcore.errors import ConfigError

# A board without a battery starts its clock at the date that its systemd was built, or at the time of the last
# shutdown: never before this, the year of the oldest system that is supported (Ubuntu 22.04, JetPack 6).
VALID_FROM = datetime(2022, 1, 1, tzinfo=UTC)
AUTHORITY_DAYS = 20 * 365
# A board that is in touch once in the last third of it, eight months, never loses its certificate.
CERTIFICATE_DAYS = 2 * 365
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*")


def sign_authority(key: ec.EllipticCurvePrivateKey, name: str, now: datetime) -> x509.Certificate:
    """The certificate by which everybody knows the authority, signed by itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, HASH())
    )


def sign_certificate(
    authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate],
    subject: Subject,
    public_key: ec.EllipticCurvePublicKey,
    hosts: Sequence[str],
    not_after: datetime,
) -> x509.Certificate:
    """A certificate of ``subject``; ``hosts`` are the names and addresses of a broker."""
    key, certificate = authority
    server = subject.role is CertificateRole.BROKER
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, subject.role.value),
                    x509.NameAttribute(NameOID.COMMON_NAME, subject.name),
                ]
            )
        )
        .issuer_name(certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(min(not_after, certificate.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if server:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
        )
    return builder.sign(key, HASH())


def sign_revocations(
    authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate],
    number: int,
    revoked: Iterable[tuple[int, datetime]],
) -> bytes:
    """The list of revoked (serial number, moment), in PEM; ``number`` grows with every list.

    OpenSSL obeys the list with the latest date, ignores a second one of the same date, and refuses everybody while
    its clock is before that date or after the next update. So the date is not today's, but a count of seconds from
    ``VALID_FROM``, and the list holds as long as the authority.
    """
    key, certificate = authority
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(VALID_FROM + timedelta(seconds=number))
        .next_update(certificate.not_valid_after_utc)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for serial, moment in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, HASH()).public_bytes(serialization.Encoding.PEM)


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """DNS names in lower case and IP addresses, each once. Raises ``ConfigError``."""
    if not hosts:
        raise ConfigError("a broker's certificate needs the name or address that clients give; use --host")
    return tuple(dict.fromkeys(_checked_host(host) for host in hosts))


def _checked_host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        name = host.lower()
    if len(name) > 253 or not _HOST.fullmatch(name) or re.fullmatch(r"[0-9.]+", name):
        raise ConfigError(f"host {host[:80]!r}; give a DNS name such as gateway.lan, or an IP address")
    return name


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
