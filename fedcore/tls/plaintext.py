"""Where plaintext may go: to this machine alone, unless the settings say otherwise."""

from __future__ import annotations

import ipaddress
import socket


def loopback(address: str) -> bool:
    """Whether an IP address never leaves this machine: 127.0.0.0/8, ::1, and the former written as IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def stays_here(host: str) -> bool:
    """Whether all addresses that a host has now are loopback; a name that has none is not known to be here."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(loopback(str(place[4][0])) for place in found)


class PlaintextRefused(ConnectionError):
    """A plaintext connection to another machine, which nobody allowed."""


def refuse_far(sock: socket.socket) -> None:
    """Close it and raise ``PlaintextRefused`` where its other end is elsewhere: a name may lead there later."""
    if sock.family == socket.AF_UNIX:
        return
    address = str(sock.getpeername()[0])
    if not loopback(address):
        sock.close()
        raise PlaintextRefused(
            f"{address} is another machine, and plaintext goes to this one alone; give mqtts://, or --plaintext"
        )
