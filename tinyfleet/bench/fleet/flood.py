"""A process that sends as fast as it is told: ``python -m tinyfleet.bench.fleet.flood SETTINGS``."""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections.abc import Callable
from enum import StrEnum

import msgspec

from tinyfleet.bench.fleet import packets
from tinyfleet.bench.fleet.member import goodbyes
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import pack_chunk
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Hello, TaskState, TaskStatus, encode


class FloodKind(StrEnum):
    """What is sent, and as whom."""

    NAMES = "hellos of as many names as messages"
    STRANGER = "rubbish by one that nobody has accepted"
    MEMBER = "statuses by an accepted device"
    CHUNKS = "chunks of 10 KB by an accepted device"
    REQUESTS = "requests for chunks by an accepted device"
    CONFIRMED = "statuses by an accepted device, confirmed"
    SIGNED = "goodbyes by an accepted device, signed and confirmed"
    TOPICS = "rubbish on topics that are nobody's, retained"


class FloodSettings(msgspec.Struct, frozen=True):
    """``member`` is an accepted device, ``digest`` a blob's on offer, ``seconds`` the least that it takes."""

    host: str
    port: int
    kind: FloodKind
    messages: int
    seconds: float
    member: str = ""
    digest: str = "ab" * 32


def _maker(settings: FloodSettings, sock: socket.socket) -> Callable[[int], bytes]:
    member = topics.up(settings.member or "stranger")
    rubbish = random.randbytes(200)
    chunk = packets.publish(f"{member}/chunk", pack_chunk("cd" * 32, 0, random.randbytes(10_000)))
    status = packets.publish(member, encode(TaskStatus("no such run", 0, TaskState.RUNNING, "x" * 100)))
    request = packets.publish(member, encode(ChunkRequest(settings.digest, 0, 1024)))
    match settings.kind:
        case FloodKind.NAMES:
            return lambda n: packets.publish(topics.up(f"s{n}"), encode(Hello(f"s{n}", "k", "s", "0", [])))
        case FloodKind.STRANGER:
            return lambda n: packets.publish(topics.up("stranger"), rubbish)
        case FloodKind.TOPICS:
            return lambda n: _retained(packets.publish(f"{topics.PREFIX}/x{n % 5000}/up", rubbish))
        case FloodKind.MEMBER:
            return lambda n: status
        case FloodKind.CONFIRMED:
            payload = encode(TaskStatus("no such run", 0, TaskState.RUNNING, "x" * 100))
            return lambda n: packets.publish(member, payload, n % 65535 + 1)
        case FloodKind.SIGNED:
            return goodbyes(sock, settings.member, settings.messages).__getitem__
        case FloodKind.CHUNKS:
            return lambda n: chunk
        case FloodKind.REQUESTS:
            return lambda n: request


def _retained(packet: bytes) -> bytes:
    return bytes((packet[0] | 1,)) + packet[1:]


def flood(settings: FloodSettings, ready: Callable[[], None]) -> tuple[int, float]:
    """(messages sent, seconds that it took); no longer than twice ``seconds`` after ``ready``."""
    with socket.create_connection((settings.host, settings.port)) as sock:
        sock.sendall(packets.connect(f"flood-{random.getrandbits(32):x}"))
        sock.recv(4)
        make = _maker(settings, sock)
        ready()
        start, sent = time.monotonic(), 0
        while sent < settings.messages and (passed := time.monotonic() - start) < 2 * settings.seconds:
            due = min(settings.messages, int(settings.messages * passed / settings.seconds) + 1)
            if sent >= due:
                time.sleep(0.002)
                continue
            batch = min(due - sent, 100)
            data = b"".join(make(sent + offset) for offset in range(batch))
            if not _send(sock, data, start + 2 * settings.seconds):
                break
            sent += batch
        return sent, time.monotonic() - start


def _send(sock: socket.socket, data: bytes, until: float) -> bool:
    """All of ``data``; False where the broker takes none any more."""
    view = memoryview(data)
    while view:
        answered, ready, _ = select.select([sock], [sock], [], max(0.0, until - time.monotonic()))
        if not answered and not ready:
            return False
        if answered and not sock.recv(1 << 16):
            return False
        if not ready:
            continue
        view = view[sock.send(view[: 1 << 16]) :]
    return True


if __name__ == "__main__":

    def say(**said: object) -> None:
        """A line of JSON."""
        sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
        sys.stdout.flush()

    counted, took = flood(msgspec.json.decode(sys.argv[1], type=FloodSettings), lambda: say(ready=True))
    say(sent=counted, seconds=round(took, 2))
