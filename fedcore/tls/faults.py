"""What ended a TLS connection: one cause a sentence, with the remedy."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.tls.clock import EndedBefore, day
from tinyfleet.fedcore.tls.context import TellingContext, TlsFiles
from tinyfleet.fedcore.tls.validity import Validity, validity

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}  # no issuer, self-signed, self-signed in the chain, ...
_WRONG_PURPOSE = 26
_NAME_MISMATCH = {62, 64}  # host name, IP address

# Alerts of RFC 8446, section 6.2, as OpenSSL names them.
_REFUSALS = {
    "CERTIFICATE_REVOKED": "this client's certificate was revoked; ask the fleet's operator for a new one",
    "UNKNOWN_CA": "this client's certificate is of an authority that the broker does not trust; "
    "get one of the fleet's own (`tinyfleet ca issue`)",
    "UNSUPPORTED_CERTIFICATE": "this client's certificate is not for a client; give the one of this device",
    "CERTIFICATE_REQUIRED": "the broker wants a client certificate; give tls_cert and tls_key",
    "PROTOCOL_VERSION": "the broker and this client have no version of TLS in common",
}


def explain(
    context: TellingContext, files: TlsFiles, error: OSError | None = None, now: float | None = None
) -> str:
    """Why the connection ended, as far as TLS was the cause; empty where it was not.

    ``error`` is what the library raised, where ``context`` noted nothing; ``now`` is Unix time in seconds.
    """
    fault = context.fault or error
    moment = time.time() if now is None else now
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _verification(fault, moment)
    reason = (getattr(fault, "reason", None) or "") if isinstance(fault, ssl.SSLError) else ""
    if "ALERT" in reason:
        return _alert(reason.split("ALERT_")[-1], files, moment)
    if reason in ("WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"):
        return "it does not speak TLS; give its TLS port, or mqtt:// for a plaintext one"
    if not context.shaken and isinstance(fault, ssl.SSLEOFError | ConnectionResetError | BrokenPipeError):
        return "it hung up on the first bytes of TLS; give its TLS port, or mqtt:// for a plaintext one"
    return f"TLS failed: {reason}" if reason and not isinstance(fault, ssl.SSLEOFError) else ""


def hung_up_unheard(files: TlsFiles | None) -> str:
    """The broker ended the connection before it answered, and gave no reason.

    ``files`` None: the connection was plaintext.
    """
    if files is None:
        return "it hung up before it answered; if that is a TLS port, give mqtts://"
    if files.certificate is None:
        return "it hung up after the TLS handshake; if it wants a client certificate, give tls_cert and tls_key"
    clock = _own_clock(files, time.time())
    return clock or "it hung up after the TLS handshake; was this client's certificate revoked, or has it expired?"


def _verification(error: ssl.SSLCertVerificationError, now: float) -> str:
    if isinstance(error, EndedBefore):
        return (
            f"this board's clock says {day(now)}, yet it met the broker on {day(error.floor)}, and by then the "
            "certificate that is shown now had expired; set the clock (timedatectl, or a time server)"
        )
    code = error.verify_code
    if code == _NOT_YET_VALID:
        return (
            f"this board's clock says {day(now)}, which is before the broker's certificate is valid; "
            "trying again until the time is set (timedatectl, or a time server)"
        )
    if code == _EXPIRED:
        return f"the broker's certificate has expired by this board's clock, {day(now)}; renew it, or set the clock"
    if code in _NAME_MISMATCH:
        return f"the broker's certificate is for another name ({error.verify_message}); give a name that it holds"
    if code in _UNKNOWN_AUTHORITY:
        return "the broker's certificate is of an authority that is not in tls_ca; give the fleet's trust.crt"
    if code == _WRONG_PURPOSE:
        return "the broker's certificate is not a broker's: somebody else answers in its place"
    return f"the broker's certificate is refused: {error.verify_message}"


def _alert(alert: str, files: TlsFiles, now: float) -> str:
    if alert in _REFUSALS:
        return f"refused: {_REFUSALS[alert]}"
    if alert in ("CERTIFICATE_EXPIRED", "BAD_CERTIFICATE"):
        own = _own_validity(files)
        if own is not None and own.not_after < now:
            return f"refused: this client's certificate expired on {day(own.not_after)}; ask for a new one"
        what = "has expired" if alert == "CERTIFICATE_EXPIRED" else "is not valid"
        return f"refused: by the broker's clock this client's certificate, or the revocation list, {what}"
    if alert == "HANDSHAKE_FAILURE" and files.certificate is None:
        return f"refused: {_REFUSALS['CERTIFICATE_REQUIRED']}"
    return f"refused: TLS alert {alert.lower().replace('_', ' ')}"


def _own_clock(files: TlsFiles, now: float) -> str:
    own = _own_validity(files)
    if own is None or own.not_before <= now <= own.not_after:
        return ""
    if now < own.not_before:
        return (
            f"this board's clock says {day(now)}, before its own certificate is valid ({day(own.not_before)}); "
            "trying again until the time is set (timedatectl, or a time server)"
        )
    return f"this client's certificate expired on {day(own.not_after)}; ask for a new one"


def _own_validity(files: TlsFiles) -> Validity | None:
    if files.certificate is None:
        return None
    try:
        return validity(read_file(Path(files.certificate)).decode("ascii", "replace"))
    except (OSError, ValueError):
        return None
