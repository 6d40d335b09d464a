"""A certificate is tried at the broker before it takes another's place."""

from __future__ import annotations

import socket
from contextlib import suppress

from tinyfleet.fedcore.tls.context import TlsFiles, client_context
from tinyfleet.fedcore.tls.faults import explain

_TIMEOUT_S = 10.0
# A broker that refuses a certificate says so in its next flight: after so much silence it has taken it.
_SILENCE_S = 1.0


def trial(host: str, port: int, files: TlsFiles) -> str:
    """Why a broker does not take a client with these files; empty where it does. Raises ``ConfigError``."""
    context = client_context(files)
    try:
        with (
            socket.create_connection((host, port), _TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as sock,
        ):
            sock.settimeout(_SILENCE_S)
            with suppress(TimeoutError):
                sock.recv(1)
    except OSError as error:
        return explain(context, files, error) or f"{host}:{port}: {error}"
    return ""
