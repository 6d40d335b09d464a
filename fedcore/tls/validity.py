"""From when to when a certificate is valid, read without a certificate library (RFC 5280, section 4.1)."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tinyfleet.fedcore.files import read_file

_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18
_ODD_S = 86_400.0  # a file that is dated so far ahead was written under another clock
_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Validity:
    """Unix times in seconds."""

    not_before: float
    not_after: float

    def due(self, now: float, issued: float | None = None) -> bool:
        """True in the last third of its life, which began when it was ``issued`` (certificates are back-dated)."""
        start = self.not_before if issued is None else max(issued, self.not_before)
        return now >= start + (self.not_after - start) * 2 / 3


def validity(pem: str) -> Validity:
    """Of the first certificate in ``pem``. Raises ``ValueError`` where there is none or it is damaged."""
    body = _body(pem)
    _, rest = _serial(body)
    for _ in ("signature algorithm", "issuer"):
        _, _, rest = _element(rest)
    tag, dates, _ = _element(rest)
    if tag != _SEQUENCE:
        raise ValueError("not a certificate")
    first, before, dates = _element(dates)
    second, after, _ = _element(dates)
    return Validity(_moment(first, before), _moment(second, after))


def serial_number(pem: str) -> str:
    """Of the first certificate in ``pem``, in hex digits. Raises ``ValueError`` likewise."""
    serial, _ = _serial(_body(pem))
    return f"{int.from_bytes(serial, 'big'):x}"


def lasting(path: Path, now: float) -> str:
    """Until when the certificate in a PEM file is valid, in words; or what is wrong with it."""
    try:
        found = validity(read_file(path).decode("ascii"))
    except (OSError, ValueError) as error:
        return f"{path}: {getattr(error, 'strerror', None) or error}"
    days = (found.not_after - now) / 86400
    day = time.strftime("%Y-%m-%d", time.gmtime(found.not_after))
    if now < found.not_before:
        return f"not valid yet by this board's clock ({time.strftime('%Y-%m-%d', time.gmtime(now))})"
    return f"valid until {day}, {days:.0f} days" if days >= 0 else f"expired on {day}, {-days:.0f} days ago"


def renewal_due(path: Path, now: float) -> bool:
    """Whether the certificate in a PEM file is in the last third of its life, counted from the file's date.

    A date to come, written under a wrong clock, does not count. Raises ``ValueError`` and ``OSError`` where it
    cannot be read.
    """
    written = path.stat().st_mtime
    return validity(read_file(path).decode("ascii")).due(now, written if written <= now + _ODD_S else None)


def _body(pem: str) -> bytes:
    start = pem.find("-----BEGIN CERTIFICATE-----")
    end = pem.find(_END, start)
    if start < 0 or end < 0:
        raise ValueError("no certificate in PEM form")
    _, certificate, _ = _element(ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)]))
    _, body, _ = _element(certificate)
    return body


def _serial(body: bytes) -> tuple[bytes, bytes]:
    """(the serial number, what follows)."""
    tag, content, rest = _element(body)
    if tag == _VERSION:
        _, content, rest = _element(rest)
    return content, rest


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """(tag, content, what follows) of the first DER element."""
    if len(data) < 2:
        raise ValueError("a certificate that ends too early")
    length, at = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        at += count
        length = int.from_bytes(data[2:at], "big")
        if not 1 <= count <= 3:
            raise ValueError("a certificate of a length beyond reason")
    if len(data) < at + length:
        raise ValueError("a certificate that ends too early")
    return data[0], data[at : at + length], data[at + length :]


def _moment(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("a certificate without dates")
    if len(text) != 15 or not text.endswith("Z"):
        raise ValueError("a certificate with a date that is none")
    month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(4, 14, 2))
    return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp()
