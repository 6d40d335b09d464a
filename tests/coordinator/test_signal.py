"""SIGTERM ends a coordinator whatever its broker does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.coordinator.toy_agent import Agent
from tests.patience import PATIENCE_S
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.mqtt import MqttTransport

PUBACK = 4
WITHOUT_ANOTHER_END = """
from tinyfleet.fedcore.protocol.reach import publishes
publishes.ACKNOWLEDGEMENT_S = 1e9
from tinyfleet.coordinator.cli import main
main()
"""


class SwallowsAcknowledgements:
    """Between a client and its broker: once ``deaf`` the broker seems to acknowledge nothing any more."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.deaf = False
        self.swallowed = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._port)) as broker:
            threading.Thread(target=self._up, args=(client, broker), daemon=True).start()
            with contextlib.suppress(OSError):
                while packet := read_packet(broker):
                    if self.deaf and packet[0] >> 4 == PUBACK:
                        self.swallowed += 1
                    else:
                        client.sendall(packet)

    def _up(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                broker.sendall(data)
            broker.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def read_packet(connection: socket.socket) -> bytes:
    """One packet of MQTT; empty at the end."""
    packet, size, shift = exactly(connection, 1), 0, 0
    while packet:
        packet += (byte := exactly(connection, 1))
        size, shift = size | (byte[0] & 127) << shift, shift + 7
        if byte[0] < 128:
            return packet + exactly(connection, size)
    return b""


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


@pytest.mark.slow
@pytest.mark.skipif(not MosquittoBroker.available(), reason="mosquitto is not installed")
def test_sigterm_ends_a_publish_that_waits_for_acknowledgements(tmp_path):
    """It would wait half a minute, and then say so."""
    broker = MosquittoBroker(tmp_path / "broker")
    broker.start()
    between = SwallowsAcknowledgements(broker.port)
    command = [sys.executable, "-c", WITHOUT_ANOTHER_END, "run", "--auto-accept"]
    command += ["--state", str(tmp_path / "state"), "--broker", between.url]
    agent = Agent(None, "board-0", tmp_path, transport=MqttTransport(f"mqtt://127.0.0.1:{broker.port}", "board-0"))
    with subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True) as coordinator:
        waits_until(lambda: agent.transport.connected)
        while not agent.channel.established:
            agent.hello()
            pumped(agent, lambda: agent.channel.established, 1.0)
        between.deaf = True
        while between.swallowed < 16:
            agent.hello()
            pumped(agent, lambda: between.swallowed >= 16, 0.2)
        agent.hello()
        coordinator.send_signal(signal.SIGTERM)
        said = coordinator.communicate(timeout=PATIENCE_S)[1]
    agent.transport.close()
    between.close()
    broker.stop()
    assert coordinator.returncode == 0
    assert "publishes within" not in said


def pumped(agent, done, seconds):
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        agent.pump()
        time.sleep(0.01)


def waits_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
