"""Brokers that are wrong in one way each, and what is no broker at all."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

CONNACK_5, CONNACK_311 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"
PLUGINS = ("/usr/lib", "/usr/local/lib")


class ConfiguredBroker(MosquittoBroker):
    """Mosquitto with ``lines`` in its configuration; with ``anonymous`` no log-in is wanted."""

    def __init__(self, directory, *lines, anonymous=True, port=0):
        super().__init__(directory, port)
        self._lines, self._anonymous = lines, anonymous

    def _configuration(self):
        text = super()._configuration()
        if not self._anonymous:
            text = text.replace("allow_anonymous true", "allow_anonymous false")
        return text + "\n".join(self._lines) + "\n"


def password_lines(directory: Path, **users: str) -> tuple[str, str]:
    """Lines of a broker that knows these users."""
    path = directory / "passwords"
    path.touch(mode=0o600)
    for name, password in users.items():
        subprocess.run(["mosquitto_passwd", "-b", path, name, password], check=True, capture_output=True)
    return (f"password_file {path}",)


def no_subscriptions(directory: Path) -> tuple[str, ...]:
    """Lines of a broker that refuses subscriptions, as access lists in a file cannot: they let nothing through."""
    found = [path for root in PLUGINS for path in Path(root).rglob("mosquitto_dynamic_security.so")]
    if not found:
        pytest.skip("Mosquitto's plugin of dynamic access lists is not installed")
    path = directory / "dynamic-security.json"
    allowed = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    path.write_text(
        json.dumps({"defaultACLAccess": allowed, "clients": [], "groups": [], "roles": []}), encoding="utf-8"
    )
    return f"plugin {found[0]}", f"plugin_opt_config_file {path}"


class Server:
    """Accepts; says ``first`` at once, ``answer`` after the first byte, and then neither reads nor writes."""

    def __init__(self, answer: bytes = b"", *, first: bytes = b"", tls: ssl.SSLContext | None = None) -> None:
        self._first, self._answer, self._tls = first, answer, tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # soon full
        self.port = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self.connections: list[socket.socket] = []
        self.reached = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with contextlib.suppress(OSError):
                    self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        self.connections.append(connection)
        if self._first:
            connection.sendall(self._first)
        connection.recv(1)
        if self._answer:
            connection.sendall(self._answer)
        self.reached.set()

    def close(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.close()
