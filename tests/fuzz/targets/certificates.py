"""Certificates, requests and grants; PEM is damaged inside its base64 too."""

from __future__ import annotations

import base64
import random
import re
from pathlib import Path

import msgspec

from tests.fuzz.mutation import damaged, vary_json
from tests.fuzz.target import Prepared, Target, file_parse
from tinyfleet.fedcore.certificates import renewal
from tinyfleet.fedcore.certificates.request import key_pem, make_request, new_key, read_key, read_request
from tinyfleet.fedcore.certificates.subject import CertificateRole, Subject, subject_of
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.messages import RenewalGrant
from tinyfleet.fedcore.tls.validity import validity

SUBJECT = Subject(CertificateRole.DEVICE, "board-1")
_BLOCK = re.compile(rb"(-----BEGIN [A-Z ]+-----\n)([A-Za-z0-9+/=\n]+)(-----END [A-Z ]+-----)")


def vary_pem(rng: random.Random, seed: bytes) -> bytes:
    """Damage to the text, or to the DER inside one of its blocks."""
    blocks = list(_BLOCK.finditer(seed))
    if not blocks or rng.random() < 0.3:
        return damaged(rng, seed)
    block = rng.choice(blocks)
    inside = damaged(rng, base64.b64decode(block[2]))
    return seed[: block.start(2)] + base64.encodebytes(inside) + seed[block.end(2) :]


def _certificate(hours: int = 24) -> tuple[bytes, bytes]:
    """(key, certificate that it signs itself)."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SUBJECT.name)])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1234)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(hours=hours))
        .sign(key, hashes.SHA256())
    )
    return key_pem(key), certificate.public_bytes(serialization.Encoding.PEM)


def _requests(directory: Path) -> Prepared:
    return Prepared(lambda data: read_request(data, SUBJECT), [make_request(new_key(), SUBJECT)], vary_pem)


def _keys(directory: Path) -> Prepared:
    key, certificate = _certificate()
    return Prepared(file_parse(directory / "key.pem", read_key), [key, key + certificate], vary_pem)


def _validity(directory: Path) -> Prepared:
    seeds = [_certificate()[1], _certificate(24 * 365 * 40)[1]]
    return Prepared(lambda data: validity(data.decode("ascii")), seeds, vary_pem)


def _certificates(directory: Path) -> Prepared:
    seeds = [_certificate()[1], _certificate()[1] + _certificate()[1]]
    return Prepared(renewal.parse_certificates, seeds, vary_pem)


def _grants(directory: Path) -> Prepared:
    """A grant for the request that waits, of an authority that is trusted here."""
    key, certificate = _certificate()
    trust, identity = directory / "trust.crt", directory / "identity.pem"

    def parse(data: bytes) -> object:
        trust.write_bytes(certificate)
        identity.write_bytes(key + certificate)
        (directory / renewal.NEXT_KEY).write_bytes(key)
        return renewal.main(["install", str(trust), str(identity), ""], data)

    def vary(rng: random.Random, seed: bytes) -> bytes:
        if rng.random() < 0.3:
            return vary_json(rng, seed)
        document = msgspec.json.decode(seed)
        field = rng.choice(("certificate", "authorities"))
        text = vary_pem(rng, document[field].encode()).decode("ascii", "ignore")
        return msgspec.json.encode({**document, field: text})

    whole = RenewalGrant(certificate.decode(), certificate.decode())
    return Prepared(parse, [msgspec.json.encode(whole)], vary)


def _subjects(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        return subject_of(data.decode("utf-8", "replace"))

    return Prepared(parse, [b"coordinator", b"broker", b"board-1"])


CERTIFICATES = (
    Target("certificate-requests", (ConfigError,), _requests),
    Target("key-files", (ConfigError,), _keys),
    Target("certificate-dates", (ValueError,), _validity),
    Target("certificates", (ConfigError,), _certificates),
    Target("certificate-grants", (ConfigError,), _grants),
    Target("certificate-names", (ConfigError,), _subjects),
)
