"""A process with many virtual devices, each on a connection of its own: ``python -m`` this, and its settings."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import asdict

import msgspec

from tinyfleet.bench.fleet import packets
from tinyfleet.bench.fleet.device import TICK_S, Acknowledged, FloodingDevice, VirtualDevice
from tinyfleet.bench.fleet.result import StepAnswer, VirtualResult, spec_of
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import TaskOffer

CONNECT_PER_S = 200.0  # new connections: a broker's listening queue is short
PING_S = 200.0


class CrowdSettings(msgspec.Struct, frozen=True):
    """What one process holds: ``count`` devices, numbered from ``first``, the last ``hostile`` of them that."""

    host: str
    port: int
    first: int
    count: int
    hostile: int = 0
    train_s: float = 0.0


class Answers:
    """One answer a task, whoever of the crowd gets it first."""

    def __init__(self) -> None:
        self._latest: tuple[str, StepAnswer] | None = None
        self._masks: dict[str, Mask] = {}

    def __call__(self, offer: TaskOffer, blob: bytes, number: int) -> VirtualResult:
        sha256 = offer.manifest.sha256
        if self._latest is None or self._latest[0] != sha256:
            self._latest = sha256, StepAnswer(blob, spec_of(offer.spec), self._masks)
        return self._latest[1].of(number)


class Connection(asyncio.Protocol):
    """One device's connection. What the broker sends is acknowledged when it is handled."""

    def __init__(self, device_of: type[VirtualDevice], number: int, crowd: Crowd) -> None:
        self.lost = False
        self._reader = packets.PacketReader()
        self._transport: asyncio.Transport | None = None
        self._packet_id = 0
        self.device = device_of(
            f"virtual-{number}", number, self._send, crowd.answers, crowd.told, crowd.settings.train_s
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's typing says less
        self._transport = transport
        transport.write(packets.connect(self.device.name))

    def data_received(self, data: bytes) -> None:
        for packet in self._reader.feed(data):
            match packet.kind:
                case packets.CONNACK:
                    wanted = (topics.down(self.device.name), topics.down_chunk(self.device.name))
                    self._write(packets.subscribe(1, wanted))
                case packets.SUBACK:
                    self.device.connected()
                case packets.PUBLISH:
                    self.device.received(packet.topic, packet.payload)
                    if packet.packet_id:
                        self._write(packets.acknowledge(packet.packet_id))
                case _:
                    pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def ping(self) -> None:
        """Keep the connection."""
        self._write(packets.PING)

    def _send(self, topic: str, payload: bytes) -> None:
        self._packet_id = self._packet_id % 65535 + 1
        self._write(packets.publish(topic, payload, self._packet_id))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)


class Crowd:
    """All devices of this process. Writes a line of JSON a result that was judged, and where a device is lost."""

    def __init__(self, settings: CrowdSettings) -> None:
        self.settings = settings
        self.answers = Answers()
        self._connections: list[Connection] = []

    def told(self, acknowledged: Acknowledged) -> None:
        """A device heard what became of its result."""
        self._say(asdict(acknowledged))

    async def run(self) -> None:
        """Until SIGTERM."""
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopping.set)
        joining = asyncio.create_task(self._join())
        ping_at, lost = time.monotonic() + PING_S, 0
        parent = os.getppid()
        while not stopping.is_set() and os.getppid() == parent:
            now = time.monotonic()
            for connection in self._connections:
                if not connection.lost:
                    connection.device.tick(now)
                    if now >= ping_at:
                        connection.ping()
            if now >= ping_at:
                ping_at = now + PING_S
            if (gone := sum(connection.lost for connection in self._connections)) != lost:
                lost = gone
                self._say({"lost": lost})
            await asyncio.sleep(TICK_S)
        joining.cancel()

    async def _join(self) -> None:
        loop, settings = asyncio.get_running_loop(), self.settings
        for offset in range(settings.count):
            kind = FloodingDevice if offset >= settings.count - settings.hostile else VirtualDevice
            connection = Connection(kind, settings.first + offset, self)
            await loop.create_connection(lambda made=connection: made, settings.host, settings.port)  # type: ignore[misc]
            self._connections.append(connection)
            await asyncio.sleep(random.uniform(0.0, 2.0) / CONNECT_PER_S)
        while not all(connection.device.welcomed for connection in self._connections):
            await asyncio.sleep(TICK_S)
        self._say({"joined": settings.count})

    @staticmethod
    def _say(document: dict[str, object]) -> None:
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Crowd(msgspec.json.decode(sys.argv[1], type=CrowdSettings)).run())
