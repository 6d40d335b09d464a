"""As much of MQTT 3.1.1 as a virtual device needs: a thousand full clients would be the load themselves."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tinyfleet.fedcore.errors import CodecError

PING = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9


def connect(client_id: str, keepalive_s: int = 600) -> bytes:
    """A clean session without a will."""
    return _packet(0x10, _text("MQTT") + struct.pack(">BBH", 4, 2, keepalive_s) + _text(client_id))


def subscribe(packet_id: int, topics: tuple[str, ...]) -> bytes:
    """QoS 1 for each."""
    return _packet(0x82, struct.pack(">H", packet_id) + b"".join(_text(topic) + b"\x01" for topic in topics))


def publish(topic: str, payload: bytes, packet_id: int = 0) -> bytes:
    """QoS 1; with packet id 0 QoS 0."""
    number = struct.pack(">H", packet_id) if packet_id else b""
    return _packet(0x32 if packet_id else 0x30, _text(topic) + number + payload)


def acknowledge(packet_id: int) -> bytes:
    """Of a publish with QoS 1."""
    return struct.pack(">BBH", 0x40, 2, packet_id)


@dataclass(frozen=True, slots=True)
class Packet:
    """What came: for a publish its topic, payload and packet id (0: QoS 0)."""

    kind: int
    topic: str = ""
    payload: bytes = b""
    packet_id: int = 0


class PacketReader:
    """Cuts a stream of bytes into packets. Raises ``CodecError`` for a length that is none."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that are whole now."""
        self._waiting += data
        found, at = [], 0
        while (whole := self._whole(at)) is not None:
            start, end = whole
            found.append(_read(self._waiting[at], bytes(self._waiting[start:end])))
            at = end
        del self._waiting[:at]
        return found

    def _whole(self, at: int) -> tuple[int, int] | None:
        """Where the packet's body begins and ends; None where it is not all there."""
        length, shift, start = 0, 0, at + 1
        while start < len(self._waiting):
            byte = self._waiting[start]
            length |= (byte & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if not byte & 0x80:
                return (start, start + length) if start + length <= len(self._waiting) else None
            if shift > 21:
                raise CodecError("a packet's length of more than four bytes")
        return None


def _read(first: int, body: bytes) -> Packet:
    kind = first >> 4
    if kind != PUBLISH:
        return Packet(kind)
    size = int.from_bytes(body[:2], "big")
    at = 2 + size
    number = int.from_bytes(body[at : at + 2], "big") if first & 0x06 else 0
    return Packet(kind, body[2:at].decode(), body[at + (2 if number else 0) :], number)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _packet(first: int, body: bytes) -> bytes:
    length, left = bytearray(), len(body)
    while True:
        length.append(left & 0x7F | (0x80 if left > 0x7F else 0))
        left >>= 7
        if not left:
            return bytes((first,)) + bytes(length) + body
