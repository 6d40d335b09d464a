"""paho's client, reading many packets at a time: confirmed publishes by itself, unconfirmed ones not at all.

paho asks the kernel four times for each packet, acknowledges each by itself, and each time gives other threads the
interpreter: while another one computes, it gets back to a packet every 5 ms. A flood then fills the connection and
the broker's queue behind it, from which Mosquitto drops what honest devices say, and what it takes for delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

READ_BYTES = 1 << 17
_PUBLISH, _QOS, _RETAIN, _PUBACK = 0x30, 0x06, 0x01, 0x40  # kinds of packets, and bits of a publish
_CONFIRMED = 0x02  # QoS 1
_MQTT_5 = 5


class BufferedReading:
    """Stands before paho's client among the bases of a client.

    For one connection: what was read of it and is no whole packet yet would be part of the next.

    ``confirmed_only``: publishes of QoS 0 are skipped unread, and counted: nothing of ours is sent so. Those of
    QoS 1 that are here whole go to ``taken`` (topic, payload, retained), and their acknowledgements out in one go.
    """

    confirmed_only = False
    skipped = 0
    taken: Callable[[str, bytes, bool], None]
    _in_packet: dict[str, Any]  # paho's
    _protocol: Any  # paho's
    _packet_queue: Any  # paho's
    _read = b""
    _read_at = 0
    _passing = 0  # bytes of a skipped publish that have not come yet

    def loop_read(self, max_packets: int = 1) -> Any:
        """Handle all packets that are here whole."""
        read = super().loop_read  # type: ignore[misc]  # paho's
        rc = read(max_packets)
        while not rc and self._read_at < len(self._read):
            rc = read(max_packets)
        return rc

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._read_at >= len(self._read):
            data: bytes = super()._sock_recv(max(bufsize, READ_BYTES))  # type: ignore[misc]  # paho's
            if not data:
                return data
            self._read, self._read_at = data, min(self._passing, len(data))
            self._passing -= self._read_at
        if self.confirmed_only and not self._in_packet["command"]:
            if self._read_at < len(self._read):  # else all of it belongs to a publish that is skipped
                self._take()
            if self._read_at >= len(self._read):
                raise BlockingIOError
        start = self._read_at
        self._read_at = min(start + bufsize, len(self._read))
        return self._read[start : self._read_at]

    def _take(self) -> None:
        """Go past publishes: paho stands between two packets."""
        data, at, end, skipped = self._read, self._read_at, len(self._read), 0
        acknowledgements = bytearray()
        while at + 2 <= end and (first := data[at]) & 0xF0 == _PUBLISH:
            length, shift, after = 0, 0, at + 1
            while after < end:
                byte = data[after]
                length |= (byte & 0x7F) << shift
                after, shift = after + 1, shift + 7
                if byte < 0x80 or shift > 21:
                    break
            else:
                break  # its length is not all here
            if not first & _QOS:
                at, skipped = after + length, skipped + 1
                continue
            if first & _QOS != _CONFIRMED or after + length > end:
                break
            packet_id = self._take_confirmed(data[after : after + length], retained=bool(first & _RETAIN))
            if packet_id is None:
                break  # paho knows what to say of it
            acknowledgements += b"%c\x02%b" % (_PUBACK, packet_id)
            at = after + length
        self._read_at = min(at, end)
        self._passing = at - self._read_at
        self.skipped += skipped
        if acknowledgements:
            self._packet_queue(_PUBACK, bytes(acknowledgements), 0, 1)

    def _take_confirmed(self, body: bytes, *, retained: bool) -> bytes | None:
        """The packet id of a publish that was taken; None for one that is malformed."""
        at = 2 + int.from_bytes(body[:2], "big")
        packet_id = body[at : at + 2]
        start = at + 2
        if self._protocol == _MQTT_5:
            size = shift = 0
            while True:
                if start >= len(body) or shift > 21:
                    return None
                byte, start = body[start], start + 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            start += size
        if start > len(body):
            return None
        try:
            topic = body[2:at].decode()
        except UnicodeDecodeError:
            return packet_id  # nothing of ours
        self.taken(topic, body[start:], retained)
        return packet_id
