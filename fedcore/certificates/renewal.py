"""The holder renews its certificate: prepare a request, take the answer, try it at the broker, switch files.

With the key in a file of its own (``tls_key``) the key stays and the certificate's file is replaced. Where both
stand in one file a new key is made, and one rename switches both. A power cut at any instant leaves a pair that
works.
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

from tinyfleet.fedcore.certificates.request import HASH, key_pem, make_request, new_key, prove, read_key
from tinyfleet.fedcore.certificates.subject import subject_of
from tinyfleet.fedcore.errors import CodecError, ConfigError, TinyfleetError
from tinyfleet.fedcore.files import read_file, write_atomic
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.messages import RenewalGrant, RenewalRequest
from tinyfleet.fedcore.protocol.reach.client import broker_address
from tinyfleet.fedcore.tls.context import TlsFiles
from tinyfleet.fedcore.tls.trial import trial

NEXT_KEY = "next.key"


def prepare(files: TlsFiles) -> RenewalRequest:
    """The request for the next certificate. Raises ``ConfigError``, also where the next could not be written.

    A new key waits in next.key beside the certificate; asked again, the same key is requested again.
    """
    identity, _ = _named(files)
    current = read_key(Path(files.key) if files.key else identity)
    subject = subject_of(_name(read_certificate(identity)))
    if why := files.fixed():
        raise ConfigError(why)
    requested = current
    if files.key is None:
        waiting = identity.with_name(NEXT_KEY)
        if not waiting.exists():
            write_atomic(waiting, key_pem(new_key()), mode=0o600)
        requested = read_key(waiting)
    request = make_request(requested, subject)
    return RenewalRequest(request.decode(), prove(current, request))


def install(files: TlsFiles, grant: RenewalGrant, broker: str = "") -> str:
    """Check an answer, put its files in place; returns the new certificate's serial number (hex digits).

    With ``broker``, a URL, it is first tried there. Installed again, it changes nothing. Raises ``ConfigError``
    where the certificate is not for the requested key and this device's name, is of none of the authorities that
    come with it, ends before the present one, or is not taken by the broker; and where none of those authorities is
    trusted here already: a stranger's bundle takes no board over.
    """
    identity, trust = _named(files)
    present = read_certificate(identity)
    granted = parse_certificate(grant.certificate.encode())
    waiting = Path(files.key) if files.key else identity.with_name(NEXT_KEY)
    if granted == present and (files.key or not waiting.exists()):
        return f"{granted.serial_number:x}"
    key = read_key(waiting)
    authorities = parse_certificates(grant.authorities.encode())
    known = read_certificates(trust)
    try:
        fault = _unfit(granted, present, key, authorities, known)
    except Exception as error:  # noqa: BLE001 - foreign bytes: the library reads parts late, and raises what it likes
        fault = f"the certificate that came is damaged ({type(error).__name__}); asking again"
    if fault:
        raise ConfigError(fault)
    content = grant.certificate.encode() if files.key else key_pem(key) + grant.certificate.encode()
    if broker:
        _try_out(broker, files, content, grant.authorities.encode())
    if authorities != known:  # a gateway's program may read the authority's own file
        write_atomic(trust, grant.authorities.encode())
    write_atomic(identity, content, mode=0o644 if files.key else 0o600)
    if not files.key:
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


def _try_out(broker: str, files: TlsFiles, content: bytes, authorities: bytes) -> None:
    """A handshake with what is to be installed: a broker that was not told of a new authority locks nobody out."""
    identity, trust = _named(files)
    tried = TlsFiles(
        str(trust.with_name(f".{trust.name}.trial.tmp")),
        str(identity.with_name(f".{identity.name}.trial.tmp")),
        files.key,
    )
    host, port, _ = broker_address(broker)
    try:
        write_atomic(Path(tried.authorities or ""), authorities)
        write_atomic(Path(tried.certificate or ""), content, mode=0o600)
        why = trial(host, port, tried)
        if why:
            raise ConfigError(f"the broker does not take the new certificate, the present one stays: {why}")
    finally:
        for path in (tried.authorities, tried.certificate):
            Path(path or "").unlink(missing_ok=True)


def _named(files: TlsFiles) -> tuple[Path, Path]:
    """Paths of the certificate and of whom to trust. Raises ``ConfigError`` where one is not named."""
    if files.certificate is None or files.authorities is None:
        raise ConfigError(files.fixed())
    return Path(files.certificate), Path(files.authorities)


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate in a PEM file. Raises ``ConfigError``."""
    return read_certificates(path)[0]


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All of a PEM file, at least one. Raises ``ConfigError``."""
    try:
        return parse_certificates(read_file(path))
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
    """``prepare TRUST CERT KEY`` prints a request as JSON; ``install TRUST CERT KEY BROKER`` reads a grant as JSON
    and prints the serial number. KEY is empty where the key stands in CERT.

    For a child process, so that the agent's supervisor does not hold the memory of ``cryptography``.
    """
    action, trust, identity, key, *broker = arguments
    files = TlsFiles(trust or None, identity, key or None)
    try:
        if action == "prepare":
            return msgspec.json.encode(prepare(files))
        return install(files, read_document(feed, RenewalGrant), *broker).encode()
    except CodecError as error:
        raise ConfigError(f"not a grant: {error}") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or identity}: {error.strerror}") from None


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(main(sys.argv[1:], sys.stdin.buffer.read() if sys.argv[1] == "install" else b""))
    except TinyfleetError as fault:
        sys.stderr.write(f"{fault}\n")
        sys.exit(fault.exit_code)
