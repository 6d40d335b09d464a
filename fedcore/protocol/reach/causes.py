"""Why a broker, or who is behind it, is not reached: a kind, and one sentence with the remedy."""

from __future__ import annotations

import errno
import re
import socket
from dataclasses import dataclass
from enum import StrEnum

from tinyfleet.fedcore.tls.plaintext import PlaintextRefused


class CauseKind(StrEnum):
    """What has to be mended; ``docs/troubleshooting.md`` has a row for each."""

    NAME = "name"
    """The broker's host name leads nowhere."""
    NETWORK = "network"
    """No way to that host: the network is down, or the host is."""
    PORT = "port"
    """Nobody listens on that port."""
    SILENT = "silent"
    """It takes connections, and does not answer."""
    FOREIGN = "foreign"
    """Something else than an MQTT broker answers."""
    TLS = "tls"
    """Certificates, names, dates, or TLS on one side alone."""
    FILES = "files"
    """A TLS file that was there at the start is gone or half written."""
    LOGIN = "login"
    """The broker does not take this user, password or certificate."""
    ACCESS = "access"
    """The broker's access list keeps a topic from this client."""
    SESSION = "session"
    """Another client uses the same client id."""
    SIZE = "size"
    """The broker takes no packets of that size."""
    REFUSED = "refused"
    """The broker will not have this connection for another reason, in its own words."""
    LOST = "lost"
    """A connection that stood was lost; the next try says more."""
    DEFECT = "defect"
    """This program's fault; its traceback is in the log."""
    COORDINATOR = "coordinator"
    """The broker is reached, and no coordinator answers (said by agents)."""
    DEVICES = "devices"
    """The broker is reached, and no device is heard of (said by coordinators)."""


# Causes of which a new connection that stands is no proof that they are gone.
RETURNING = frozenset({CauseKind.SESSION, CauseKind.SIZE})

# A lost connection with a smaller publish under way had nothing to do with its size.
_SMALL_BYTES = 16 * 1024
_NO_WAY = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.ETIMEDOUT,
    errno.EADDRNOTAVAIL,
}
_DNS_IS_AWAY = {socket.EAI_AGAIN, getattr(socket, "EAI_SYSTEM", socket.EAI_AGAIN)}


@dataclass(frozen=True, slots=True)
class Cause:
    """``reason``: what is wrong and what to do, beginning with the broker's address."""

    kind: CauseKind
    reason: str

    @property
    def key(self) -> str:
        """Equal for the same cause at another moment: clocks and counts in a reason change."""
        return f"{self.kind.value} {re.sub('[0-9]+', '', self.reason)}"


def unreachable(error: Exception) -> tuple[CauseKind, str]:
    """Of an error before anything was said: name, way, port."""
    if isinstance(error, PlaintextRefused):
        return CauseKind.TLS, str(error)
    if isinstance(error, socket.gaierror):
        if error.errno in _DNS_IS_AWAY:
            return CauseKind.NAME, "its name cannot be looked up now; is this machine's network, or its DNS, down?"
        return (
            CauseKind.NAME,
            "there is no host of that name; correct broker.url, or add the name to DNS or /etc/hosts",
        )
    if isinstance(error, ConnectionRefusedError):
        return CauseKind.PORT, "nobody listens on that port; start the broker there, or correct broker.url"
    if isinstance(error, TimeoutError):
        return CauseKind.NETWORK, "that host does not answer; is it on, on this network, and not behind a firewall?"
    if isinstance(error, OSError) and error.errno in _NO_WAY:
        return CauseKind.NETWORK, f"there is no way to that host ({error.strerror}); is this machine's network up?"
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        return (
            CauseKind.NETWORK,
            f"it cannot be connected to ({said}); see whether that host and its port are there",
        )
    return CauseKind.NAME, f"its name is none ({error}); correct broker.url"


def foreign(first: bytes) -> tuple[CauseKind, str] | None:
    """Of the first bytes of an answer to CONNECT: None where they are MQTT's."""
    if not first or first[0] in (0x20, 0xE0, 0xF0):  # CONNACK, DISCONNECT, AUTH
        return None
    if first[:2] == b"\x15\x03":  # an alert, RFC 8446, section 5.1
        return CauseKind.TLS, "it speaks TLS on that port; give mqtts://"
    said = first[:16].decode("ascii", "backslashreplace")
    return (
        CauseKind.FOREIGN,
        f"something else than an MQTT broker answers ({said!r}); correct the port in broker.url",
    )


def connection_refused(said: str, *, username: str | None, certificate: bool) -> tuple[CauseKind, str]:
    """Of a CONNACK's reason, in MQTT's words."""
    refused = f"the broker refused the connection: {said}"
    if said in ("Bad user name or password", "Not authorized", "Bad authentication method"):
        if certificate:
            remedy = "does it know this certificate's name?"
        elif username is None:
            remedy = "give broker.username and broker.password_file"
        else:
            remedy = f"check broker.username ({username!r}) and broker.password_file"
        return CauseKind.LOGIN, f"{refused}; {remedy}"
    if said == "Packet too large":
        return CauseKind.SIZE, f"{refused}; raise its limit on packets"
    remedy = {
        "Unsupported protocol version": 'set broker.protocol to "auto"',
        "Client identifier not valid": "give this device another name",
        "Banned": "take this client off the broker's list",
        "Topic name invalid": "let its access list allow this client's last will",
    }.get(said, "see the broker's log")
    return CauseKind.REFUSED, f"{refused}; {remedy}"


def subscription_refused(said: str, topic: str) -> tuple[CauseKind, str]:
    """Of a SUBACK's reason."""
    return CauseKind.ACCESS, (
        f"the broker refused the subscription to {topic}: {said}; let its access list allow this client to read it"
    )


def publish_refused(said: str, topic: str) -> tuple[CauseKind, str]:
    """Of a PUBACK's reason."""
    if said == "Packet too large":
        return CauseKind.SIZE, f"the broker refuses publishes to {topic}: {said}; raise its limit on packets"
    if said == "Quota exceeded":
        return CauseKind.REFUSED, f"the broker refuses publishes to {topic}: {said}; see the broker's log"
    return CauseKind.ACCESS, (
        f"the broker refuses publishes to {topic}: {said}; let its access list allow this client to write it"
    )


def ended(said: str, *, by_broker: bool, client_id: str, unanswered_bytes: int = 0) -> tuple[CauseKind, str]:
    """Of a connection that stood: a DISCONNECT's reason in MQTT's words, or that of the library.

    ``unanswered_bytes``: the largest publish that was under way.
    """
    if said == "Keep alive timeout" and not by_broker:
        return CauseKind.SILENT, "the broker has stopped answering; see whether it, or the network to it, hangs"
    if not by_broker:
        hint = ""
        if unanswered_bytes > _SMALL_BYTES:
            hint = (
                f" with {unanswered_bytes} bytes under way; if it comes again, raise the broker's limit on packets"
            )
        return CauseKind.LOST, f"the connection was lost{hint}"
    over = f"the broker ended the connection: {said}"
    if said == "Session taken over":
        return CauseKind.SESSION, (
            f"{over}; another client uses the id {client_id!r}: stop it, or give this device a name of its own"
        )
    if said == "Packet too large":
        return CauseKind.SIZE, f"{over}; raise its limit on packets"
    if said == "Not authorized":
        return CauseKind.ACCESS, f"{over}; check its users and its access list"
    return CauseKind.LOST, over
