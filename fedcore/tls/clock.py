"""The floor of a clock: after a power cut a board may not know the time, but when it last met its broker.

Kept as the date of a file beside the certificate. It only ever makes checks stricter, and locks nobody out: it is
no later than the end of a broker's certificate that was valid then, and the broker's later ones end later.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path

FILE_NAME = "last-met"
_WEAR_S = 3600.0  # between two changes of the file


class EndedBefore(ssl.SSLCertVerificationError):
    """The broker's certificate is valid by this clock, yet ended before ``floor`` (Unix seconds)."""

    floor = 0.0


def floor(certificate: str | None) -> float:
    """Unix seconds that cannot be in the future; 0 where nothing is known."""
    if certificate is None:
        return 0.0
    try:
        return Path(certificate).with_name(FILE_NAME).stat().st_mtime
    except OSError:
        return 0.0


def met(certificate: str | None, peer: object, now: float) -> None:
    """Keep ``now``, at which the broker showed ``peer`` (as ``getpeercert`` tells it). Raises ``EndedBefore``."""
    if certificate is None or not isinstance(peer, dict) or "notAfter" not in peer:
        return
    least = floor(certificate)
    if ssl.cert_time_to_seconds(peer["notAfter"]) < least:
        error = EndedBefore(1, "certificate has expired")
        error.floor = least
        raise error
    if now - least >= _WEAR_S:
        with contextlib.suppress(OSError):  # a directory that may not be written has no floor
            Path(certificate).with_name(FILE_NAME).touch()


def day(moment: float) -> str:
    """Unix seconds as people write them."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
