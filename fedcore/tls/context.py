"""The TLS context of a client: whom it trusts, who it is, and which error ended a connection."""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import read_file
from tinyfleet.fedcore.tls.clock import met


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. ``authorities`` None: the system's; ``certificate`` None: no client certificate.

    ``key`` None: the private key stands in ``certificate`` too.
    """

    authorities: str | None = None
    certificate: str | None = None
    key: str | None = None

    def fixed(self) -> str:
        """Why a renewed certificate could not take the place of the present one; empty where it could."""
        if self.certificate is None or self.authorities is None:
            return "a certificate that renews itself needs broker.tls_cert and broker.tls_ca; give both"
        for path in (Path(self.certificate), Path(self.authorities)):
            if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
                return (
                    f"{path.parent} may not be written by this user, so {path.name} cannot be replaced; keep it in "
                    "a directory of this program's own, such as /var/lib/tinyfleet/tls"
                )
        return ""


class TellingContext(ssl.SSLContext):
    """A client's context that keeps the error which ended its connection: MQTT libraries swallow it."""

    fault: OSError | None = None
    shaken = False  # the handshake came to its end
    certificate: str | None = None  # the client's
    heard = b""  # the first bytes that came through

    def note(self, error: OSError) -> None:
        """Keep the first error: what follows is its consequence."""
        if self.fault is None:
            self.fault = error


class _TellingSocket(ssl.SSLSocket):
    """Notes its errors in its context."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            if isinstance(self.context, TellingContext):
                met(self.context.certificate, self.getpeercert(), time.time())
                self.context.shaken = True
        except OSError as error:
            _note(self, error)
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            data = super().recv(buflen, flags)
        except OSError as error:
            _note(self, error)
            raise
        if isinstance(self.context, TellingContext) and len(self.context.heard) < _HEARD_BYTES:
            self.context.heard += data[:_HEARD_BYTES]
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        try:
            return super().send(data, flags)
        except OSError as error:
            if not isinstance(error, _NOT_YET):
                self._last_word()
            _note(self, error)
            raise

    def _last_word(self) -> None:
        # In TLS 1.3 a server refuses a client's certificate after the client's handshake has ended. By the
        # time of the first write the server may have hung up, and its reason waits to be read.
        try:
            super().recv(1)
        except OSError as error:
            _note(self, error)


_HEARD_BYTES = 16
_NOT_YET = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


def _note(sock: ssl.SSLSocket, error: OSError) -> None:
    if isinstance(sock.context, TellingContext) and not isinstance(error, _NOT_YET):
        sock.context.note(error)


def client_context(files: TlsFiles) -> TellingContext:
    """TLS 1.2 or newer; the server's chain and name are checked. Raises ``ConfigError`` for each file's fault."""
    context = TellingContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = _TellingSocket
    if files.authorities is None:
        context.load_default_certs()
    else:
        _readable("tls_ca", files.authorities)
        try:
            context.load_verify_locations(files.authorities)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"tls_ca: {files.authorities} holds no certificate ({_reason(error)}); give the fleet's trust.crt"
            ) from None
    context.certificate = files.certificate
    if files.certificate is not None:
        _load_identity(context, files.certificate, files.key)
    elif files.key is not None:
        raise ConfigError(f"tls_key: {files.key} without tls_cert; give the certificate of this key")
    return context


def _load_identity(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    _readable("tls_cert", certificate)
    private, option = (certificate, "tls_cert") if key is None else (key, "tls_key")
    _readable(option, private)
    if Path(private).stat().st_mode & 0o007:
        raise ConfigError(f"{option}: everybody on this machine may read the key in {private}; chmod 600 {private}")
    try:
        context.load_cert_chain(certificate, key, password=_no_prompt)
    except ConfigError:
        raise ConfigError(f"{option}: the key in {private} has a passphrase; give one without") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"tls_key: the key in {private} is not that of the certificate in {certificate}; give the two that "
                "were issued together"
            ) from None
        raise ConfigError(
            f"tls_cert: no certificate and key in {certificate}{'' if key is None else f' and {key}'} "
            f"({_reason(error)}); give PEM files as `tinyfleet ca issue` writes them"
        ) from None


def _no_prompt() -> NoReturn:
    raise ConfigError("a passphrase is wanted")


def _readable(option: str, path: str) -> None:
    try:
        read_file(Path(path))
    except OSError as error:
        raise ConfigError(f"{option}: {path}: {error.strerror}; give a PEM file that this user may read") from None


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
