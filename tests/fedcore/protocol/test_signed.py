"""Signatures and envelopes: what is signed is what arrives, and nothing else passes."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.signing import FLEET_KEY, Signer, key_named
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol.messages import MAX_MESSAGE_BYTES, TaskCancel, decode_down, encode
from tinyfleet.fedcore.protocol.signed import signatures
from tinyfleet.fedcore.protocol.signed.envelope import Direction, unseal
from tinyfleet.fedcore.protocol.signed.libcrypto import Heavy, OpenSsl, ed25519

MESSAGE = TaskCancel("run-1", 3, "over")


def sealed():
    return Signer(FLEET_KEY, Direction.DOWN, "porch", "c1", peer="a1", counter=7).seal(MESSAGE)


# RFC 8032, section 7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.mark.parametrize("implementation", [ed25519(), Heavy()], ids=lambda one: type(one).__name__)
def test_both_ways_to_sign_are_rfc_8032(implementation):
    assert implementation.public(SEED) == PUBLIC
    assert implementation.sign(SEED, b"\x72") == SIGNATURE
    assert implementation.verify(PUBLIC, b"\x72", SIGNATURE)
    assert not implementation.verify(PUBLIC, b"\x73", SIGNATURE)
    assert not implementation.verify(b"\xff" * 32, b"\x72", SIGNATURE)
    with pytest.raises(ValueError, match="32"):
        implementation.public(SEED[:-1])


def test_where_openssl_cannot_be_had_cryptography_signs(tmp_path):
    (tmp_path / "maps").write_text("00400000-00401000 r--p 00000000 00:00 0 /usr/bin/python3\n")
    assert isinstance(ed25519(tmp_path / "maps"), Heavy)
    assert isinstance(ed25519(tmp_path / "missing"), Heavy)
    (tmp_path / "maps").write_text("00400000-00401000 r--p 00000000 00:00 0 /nowhere/libcrypto.so.3\n")
    assert isinstance(ed25519(tmp_path / "maps"), Heavy)
    with pytest.raises(AttributeError):
        OpenSsl(None)  # the process itself: no function of OpenSSL's is among its own


def test_a_message_arrives_as_it_was_signed():
    envelope = unseal(sealed())
    assert envelope.signed_by(FLEET_KEY.public, Direction.DOWN)
    assert (envelope.device, envelope.session, envelope.peer, envelope.counter) == ("porch", "c1", "a1", 7)
    assert decode_down(bytes(envelope.body)) == MESSAGE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fleet", "0" * 32),
        ("device", "other"),
        ("session", "c2"),
        ("peer", "a2"),
        ("counter", 8),
        ("body", json.loads(encode(TaskCancel("run-2", 3, "over")))),
    ],
)
def test_no_field_can_be_changed(field, value):
    document = json.loads(sealed())
    document[field] = value
    assert not unseal(msgspec.json.encode(document)).signed_by(FLEET_KEY.public, Direction.DOWN)


def test_a_signature_counts_for_one_key_and_one_direction():
    envelope = unseal(sealed())
    assert not envelope.signed_by(key_named("stranger").public, Direction.DOWN)
    assert not envelope.signed_by(FLEET_KEY.public, Direction.UP)
    assert not envelope.signed_by(b"short", Direction.DOWN)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[" * 60_000,
        encode(MESSAGE),
        b" " * (MAX_MESSAGE_BYTES + 1),
        sealed().replace(b'"counter":7', b'"counter":-1'),
        sealed().replace(b'"counter":7', b'"counter":1' + b"0" * 3000),
        sealed().replace(b'"session":"c1"', b'"session":"' + b"c" * 33 + b'"'),
        sealed().replace(b'"device":"porch"', b'"device":"../porch"'),
        sealed().replace(b'"signature":"', b'"signature":"AAAA'),
        sealed().replace(b'"peer"', b'"more":1,"peer"'),
    ],
)
def test_what_is_no_envelope_is_refused_before_any_signature_is_looked_at(payload):
    with pytest.raises(CodecError):
        unseal(payload)


def test_fingerprints_are_short_and_a_fleets_id_is_the_start_of_one():
    public = FLEET_KEY.public
    digits = signatures.fingerprint(public)
    assert signatures.fleet_id(public) == digits[:32]
    assert signatures.shown(digits) == "-".join((digits[:4], digits[4:8], digits[8:12], digits[12:16]))
    assert signatures.shown("") == ""
    assert signatures.key_bytes(signatures.key_text(public)) == public
    assert signatures.key_bytes("AAAA") is None
    assert signatures.key_bytes("no base64") is None
