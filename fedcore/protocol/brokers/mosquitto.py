"""A private Mosquitto on loopback, as a child process: for the demo and for tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tinyfleet.fedcore.errors import TransportError

START_TIMEOUT_S = 10.0


def find_mosquitto() -> str | None:
    """Path of the broker's program; Debian keeps it in /usr/sbin, which is not on every PATH."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class MosquittoBroker:
    """Writes ``directory``/mosquitto.conf and runs the broker on 127.0.0.1. ``port`` 0: a free one."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def available() -> bool:
        """Whether Mosquitto is installed."""
        return find_mosquitto() is not None

    def start(self) -> int:
        """Start it and wait until it accepts; returns the port. Raises ``TransportError`` with its log."""
        program = find_mosquitto()
        if program is None:
            raise TransportError("Mosquitto is not installed: apt install mosquitto, or use the embedded broker")
        self.port = self.port or free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration, log = self.directory / "mosquitto.conf", self.directory / "mosquitto.log"
        configuration.write_text(self._configuration(), encoding="utf-8")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program, "-c", str(configuration)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return self.port
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise TransportError(f"Mosquitto did not start on port {self.port}; it said: {log.read_text()[-500:]}")

    @property
    def pid(self) -> int:
        """Its process; 0 while it does not run."""
        return 0 if self._process is None else self._process.pid

    def stop(self) -> None:
        """Stop it; may be called twice."""
        self._end(kill=False)

    def kill(self) -> None:
        """SIGKILL it."""
        self._end(kill=True)

    def _end(self, kill: bool) -> None:
        if self._process is None:
            return
        (self._process.kill if kill else self._process.terminate)()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _configuration(self) -> str:
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "persistence false",
            "log_type error",
            "log_type warning",
            "max_queued_messages 1000",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it drops to a user that cannot read this directory
        return "\n".join(lines) + "\n"
