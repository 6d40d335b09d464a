"""Tries a broker step by step, each within a time limit: name, port, TLS, log-in, subscription."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.protocol.reach import causes
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.reach.client import broker_address
from tinyfleet.fedcore.protocol.transport import Disconnected
from tinyfleet.fedcore.tls.context import TellingContext, TlsFiles, client_context
from tinyfleet.fedcore.tls.faults import explain

STEP_TIMEOUT_S = 10.0
# Of `tinyfleet doctor`, by what it found; docs/troubleshooting.md lists them.
EXIT_CODES = {kind: 20 + place for place, kind in enumerate(CauseKind)}


@dataclass(frozen=True, slots=True)
class ProbeStep:
    """One step that was tried: what it found, or the cause of its failure."""

    name: str
    found: str
    cause: Cause | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.found if self.cause is None else self.cause.reason}"


def probe(settings: BrokerSettings, topic: str, timeout_s: float = STEP_TIMEOUT_S) -> Iterator[ProbeStep]:
    """The steps up to the first that fails, or to the subscription to ``topic``. Raises ``ConfigError``.

    The client id is one of its own, where the broker does not set it by the certificate.
    """
    host, port, tls = broker_address(settings.url)
    address = f"{host}:{port}"
    files = TlsFiles(settings.tls_ca or None, settings.tls_cert or None, settings.tls_key or None)
    context = client_context(files) if tls else None
    transport = settings.client(f"tinyfleet-doctor-{os.urandom(3).hex()}")  # what is wrong with it is said first
    try:
        where = _looked_up(host, port, timeout_s)
        yield ProbeStep("name", f"{host} is {', '.join(sorted({place[0] for place in where}))}")
        began = time.monotonic()
        with socket.create_connection((host, port), timeout_s) as plain:
            yield ProbeStep("port", f"{address} takes connections, after {1e3 * (time.monotonic() - began):.0f} ms")
            if context is not None:
                yield _shaken_hands(plain, context, files, host, address)
    except OSError as error:
        kind, why = causes.unreachable(error)
        cause = Cause(kind, f"{address}: {why}")
        yield ProbeStep("name" if kind is CauseKind.NAME else "port", "", cause)
        return
    if context is not None and (context.fault is not None or not context.shaken):
        return
    transport.open((topic,))
    try:
        event = transport.receive(3 * timeout_s)
    finally:
        transport.close()
    if event is None:
        event = Disconnected(f"{address}: it does not answer; is it hung?", CauseKind.SILENT)
    if not isinstance(event, Disconnected):
        yield ProbeStep(
            "log-in", f"as {settings.username or ('the certificate says' if files.certificate else 'anybody')}"
        )
        yield ProbeStep("subscription", f"{topic} is granted")
        return
    access = event.kind is CauseKind.ACCESS
    if access:
        yield ProbeStep("log-in", f"as {settings.username or 'anybody'}")
    yield ProbeStep("subscription" if access else "log-in", "", event.cause)


def _looked_up(host: str, port: int, timeout_s: float) -> list[tuple[str, int]]:
    """Addresses of a name, by a thread that is left behind where no DNS server answers. Raises ``OSError``."""
    answers: queue.Queue[list[tuple[str, int]] | OSError] = queue.Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(str(entry[4][0]), port) for entry in found])
        except OSError as error:
            answers.put(error)

    threading.Thread(target=ask, name="doctor-name", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {timeout_s:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _shaken_hands(
    plain: socket.socket, context: TellingContext, files: TlsFiles, host: str, address: str
) -> ProbeStep:
    try:
        with context.wrap_socket(plain, server_hostname=host) as secured:
            until = (secured.getpeercert() or {}).get("notAfter", "an unknown date")
            return ProbeStep("TLS", f"{secured.version()}, the broker's certificate is valid until {until}")
    except (OSError, ssl.CertificateError) as error:
        if isinstance(error, TimeoutError):
            cause = Cause(
                CauseKind.SILENT, f"{address}: it takes connections, and does not answer TLS; is it hung?"
            )
        else:
            why = explain(context, files, error) or f"TLS failed ({error}); see the broker's log"
            cause = Cause(CauseKind.TLS, f"{address}: {why}")
        return ProbeStep("TLS", "", cause)
