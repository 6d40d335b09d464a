"""The holder's side: a private key that never leaves its machine, and the request for a certificate."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tinyfleet.fedcore.certificates.subject import Subject
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import make_private, read_file, write_atomic

# P-256 and SHA-256, not Ed25519: every TLS stack of a broker knows them (RFC 8446, section 9.1, makes
# ecdsa_secp256r1_sha256 mandatory), and a handshake costs a Pi Zero a millisecond.
CURVE = ec.SECP256R1
HASH = hashes.SHA256
MAX_REQUEST_BYTES = 4096
# What a renewal's proof signs before the request: a signature made for anything else is none for this.
_PROOF = b"tinyfleet renewal v1\0"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(CURVE())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 in PEM, not encrypted: keep it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in a PEM file, which may hold certificates too. Raises ``ConfigError``."""
    try:
        key = serialization.load_pem_private_key(_block(read_file(path), b"PRIVATE KEY"), None)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the file of the private key") from None
    except Exception:  # noqa: BLE001 - foreign bytes: the library raises what it likes
        raise ConfigError(f"{path} holds no private key in PEM form without a passphrase") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, CURVE):
        raise ConfigError(f"{path}: the key is not one of the curve P-256; make one: `tinyfleet ca request`")
    return key


def make_request(key: ec.EllipticCurvePrivateKey, subject: Subject) -> bytes:
    """A certificate signing request (PKCS #10) in PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject.name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, HASH())
    return request.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes, subject: Subject) -> ec.EllipticCurvePublicKey:
    """The key that a request asks a certificate for; nothing else of it counts.

    Raises ``ConfigError`` where it is malformed, not signed by its own key, not of P-256, or for another name.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        raise ConfigError(f"a certificate request of {len(pem)} bytes; at most {MAX_REQUEST_BYTES}")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        names = [str(one.value) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        signed = request.is_signature_valid
    except Exception as error:  # noqa: BLE001  foreign bytes: the library raises what it likes
        raise ConfigError(f"not a certificate request in PEM form ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise ConfigError("the request's key is not one of the curve P-256; make one: `tinyfleet ca request`")
    if not signed:
        raise ConfigError("the request is not signed by its own key: it was damaged or forged; make it again")
    if names != [subject.name]:
        raise ConfigError(f"the request is for {', '.join(names)[:80]!r}, not for {subject.name!r}")
    return key


def write_request(directory: Path, subject: Subject) -> tuple[Path, Path]:
    """Make NAME.key (mode 0600) and NAME.csr in ``directory``; a key that is there is used. Returns both paths."""
    make_private(directory)
    key_file, request_file = directory / f"{subject.name}.key", directory / f"{subject.name}.csr"
    if key_file.exists():
        key = read_key(key_file)
    else:
        key = new_key()
        write_atomic(key_file, key_pem(key), mode=0o600)
    write_atomic(request_file, make_request(key, subject))
    return key_file, request_file


def prove(current: ec.EllipticCurvePrivateKey, request: bytes) -> bytes:
    """Signature of a request by the key that is in use: only its holder can renew."""
    return current.sign(_PROOF + request, ec.ECDSA(HASH()))


def proven(current: ec.EllipticCurvePublicKey, request: bytes, proof: bytes) -> bool:
    """Whether ``proof`` is what ``prove`` gives for that key."""
    try:
        current.verify(proof, _PROOF + request, ec.ECDSA(HASH()))
    except InvalidSignature:
        return False
    return True


def _block(data: bytes, kind: bytes) -> bytes:
    """The first PEM block whose kind ends so; all of ``data`` where there is none."""
    at = data.find(kind + b"-----")
    start = data.rfind(b"-----BEGIN", 0, at) if at >= 0 else -1
    end = data.find(b"-----END", start)
    return data if start < 0 or end < 0 else data[start : data.find(b"\n", end) + 1 or None]
