"""A device renews its certificate: prepare a request, take the answer, switch files in one step.

The identity is one file, DIR/identity.pem (key, then certificate), so that one rename switches both; whom the
device trusts is DIR/trust.crt. A power cut at any instant leaves a pair that works.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tinyfleet.fedcore.certificates.messages import RenewalGrant, RenewalRequest
from tinyfleet.fedcore.certificates.request import HASH, key_pem, make_request, new_key, prove, read_key
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.foreign.documents import read_document

IDENTITY, TRUST, NEXT_KEY = "identity.pem", "trust.crt", "next.key"


def adopt(directory: Path, key: bytes, certificate: bytes, authorities: bytes) -> None:
    """The first identity of a device, from PEM; DIR is made with mode 0700."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(directory / TRUST, authorities)
    write_atomic(directory / IDENTITY, key + certificate, mode=0o600)


def prepare(directory: Path, *, same_key: bool = False) -> RenewalRequest:
    """The request for the next certificate of DIR/identity.pem, for a new key unless ``same_key``.

    The key waits in DIR/next.key; asked again, the same key is requested again. Raises ``ConfigError``.
    """
    identity = directory / IDENTITY
    current = read_key(identity)
    subject = subject_of(_name(read_certificate(identity)))
    waiting = directory / NEXT_KEY
    if not waiting.exists():
        write_atomic(waiting, key_pem(current if same_key else new_key()), mode=0o600)
    request = make_request(read_key(waiting), subject)
    return RenewalRequest(request.decode(), prove(current, request))


def install(directory: Path, grant: RenewalGrant) -> str:
    """Check an answer, put its files in place; returns the new certificate's serial number (hex digits).

    Installed again, it changes nothing. Raises ``ConfigError`` where the certificate is not for the requested key
    and this device's name, is of none of the authorities that come with it, is older than the present one, or where
    none of those authorities is trusted here already: a stranger's bundle takes no board over.
    """
    present = read_certificate(directory / IDENTITY)
    granted = parse_certificate(grant.certificate.encode())
    waiting = directory / NEXT_KEY
    if not waiting.exists() and granted == present:
        return f"{granted.serial_number:x}"
    key = read_key(waiting)
    authorities = parse_certificates(grant.authorities.encode())
    known = read_certificates(directory / TRUST)
    try:
        fault = _unfit(granted, present, key, authorities, known)
    except Exception as error:  # noqa: BLE001 - foreign bytes: the library reads parts late, and raises what it likes
        fault = f"the certificate that came is damaged ({type(error).__name__}); asking again"
    if fault:
        raise ConfigError(fault)
    write_atomic(directory / TRUST, grant.authorities.encode())
    write_atomic(directory / IDENTITY, key_pem(key) + grant.certificate.encode(), mode=0o600)
    waiting.unlink(missing_ok=True)
    return f"{granted.serial_number:x}"


def _unfit(
    granted: x509.Certificate,
    present: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    authorities: list[x509.Certificate],
    known: list[x509.Certificate],
) -> str:
    """Why a certificate is not to be installed; empty where it may be."""
    if granted.public_key() != key.public_key():
        return "the certificate is for another key than the one that was requested; asking again"
    if _name(granted) != _name(present):
        return f"the certificate is for {_name(granted)!r}, this device is {_name(present)!r}"
    if not any(_issued_by(granted, authority) for authority in authorities):
        return "the certificate is of none of the authorities that came with it; asking again"
    if not set(authorities) & set(known):
        return "none of the authorities that came is trusted here; get a new certificate by hand"
    if granted.not_valid_after_utc < present.not_valid_after_utc:
        return "the certificate that came ends before the present one"
    return ""


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file. Raises ``ConfigError``."""
    return read_certificates(path)[0]


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All of a PEM file, at least one. Raises ``ConfigError``."""
    try:
        return parse_certificates(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the file of the certificate") from None
    except ConfigError:
        raise ConfigError(f"{path} holds no certificate in PEM form") from None


def parse_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate in ``pem``. Raises ``ConfigError``."""
    return parse_certificates(pem)[0]


def parse_certificates(pem: bytes) -> list[x509.Certificate]:
    """All of them, at least one. Raises ``ConfigError``."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception:  # noqa: BLE001 - foreign bytes: the library raises what it likes
        raise ConfigError("no certificate in PEM form") from None


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    if certificate.issuer != authority.subject or not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(HASH()))
    except InvalidSignature:
        return False
    return True


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def bundle(certificates: list[x509.Certificate]) -> bytes:
    """Certificates in PEM, one after another."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def main(arguments: list[str], feed: bytes = b"") -> bytes:
    """``prepare DIR`` prints a request as JSON; ``install DIR`` reads a grant as JSON and prints the serial number.

    For a child process, so that the agent's supervisor does not hold the memory of ``cryptography``.
    """
    action, directory = arguments[0], Path(arguments[1])
    if action == "prepare":
        return msgspec.json.encode(prepare(directory, same_key="--same-key" in arguments))
    try:
        grant = read_document(feed, RenewalGrant)
    except CodecError as error:
        raise ConfigError(f"not a grant: {error}") from None
    return install(directory, grant).encode()


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(main(sys.argv[1:], sys.stdin.buffer.read() if sys.argv[1] == "install" else b""))
    except ConfigError as fault:
        sys.stderr.write(f"{fault}\n")
        sys.exit(fault.exit_code)
