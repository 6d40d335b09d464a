"""The dates of a certificate, read without a certificate library."""

from __future__ import annotations

import contextlib
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.certificates.request import key_pem, new_key
from tinyfleet.fedcore.tls.validity import Validity, validity

KEY = new_key()
MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2120, 1, 1)).map(lambda at: at.replace(microsecond=0))


def certificate(start, end, name="x"):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .sign(KEY, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


@given(MOMENTS, MOMENTS, st.text("abc", min_size=1, max_size=64))
def test_it_reads_what_was_written(one, two, name):
    start, end = sorted((one, two))
    found = validity(key_pem(KEY).decode() + certificate(start, end, name))
    assert found == Validity(start.replace(tzinfo=UTC).timestamp(), end.replace(tzinfo=UTC).timestamp())


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_is_a_value_error_or_dates(noise, at):
    good = x509.load_pem_x509_certificate(certificate(datetime(2022, 1, 1), datetime(2030, 1, 1)).encode())
    der = good.public_bytes(serialization.Encoding.DER)
    damaged = ssl.DER_cert_to_PEM_cert(der[:at] + noise + der[at + len(noise) :])
    with contextlib.suppress(ValueError):
        assert isinstance(validity(damaged), Validity)


@pytest.mark.parametrize(
    "text", ["", "x", "-----BEGIN CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate(text):
    with pytest.raises(ValueError, match="certificate"):
        validity(text)


def test_renewal_is_due_in_the_last_third():
    day = timedelta(days=1).total_seconds()
    life = Validity(0.0, 1000 * day)
    assert not life.due(660 * day)
    assert life.due(667 * day)
    assert not life.due(790 * day, issued=400 * day), "what counts is when it was issued: it is back-dated"
    assert life.due(800 * day, issued=400 * day)
