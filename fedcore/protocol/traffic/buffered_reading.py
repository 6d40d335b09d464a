"""paho's client, reading many packets at a time and unconfirmed ones not at all.

paho asks the kernel four times for each packet, and each time gives other threads the interpreter: while another
one computes, it gets back to a packet every 5 ms. A flood then fills the connection, and acknowledgements stand
behind it, where Mosquitto drops them, and messages that it takes for delivered: nothing more is heard then.
"""

from __future__ import annotations

from typing import Any

READ_BYTES = 1 << 17
_PUBLISH, _QOS = 0x30, 0x06  # the packet's kind, and the bits of its QoS


class BufferedReading:
    """Stands before paho's client among the bases of a client.

    For one connection: what was read of it and is no whole packet yet would be part of the next.

    ``confirmed_only``: publishes of QoS 0 are skipped unread, and counted. Nothing of ours is sent so.
    """

    confirmed_only = False
    skipped = 0
    _in_packet: dict[str, Any]  # paho's
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
            self._skip()
            if self._read_at >= len(self._read):
                raise BlockingIOError
        start = self._read_at
        self._read_at = min(start + bufsize, len(self._read))
        return self._read[start : self._read_at]

    def _skip(self) -> None:
        """Go past unconfirmed publishes. paho stands between two packets."""
        data, at, end, skipped = self._read, self._read_at, len(self._read), 0
        while at + 2 <= end and data[at] & 0xF0 == _PUBLISH and not data[at] & _QOS:
            length, shift, after = 0, 0, at + 1
            while after < end:
                byte = data[after]
                length |= (byte & 0x7F) << shift
                after, shift = after + 1, shift + 7
                if byte < 0x80 or shift > 21:
                    break
            else:
                break  # its length is not all here
            at, skipped = after + length, skipped + 1
        self._read_at = min(at, end)
        self._passing = at - self._read_at
        self.skipped += skipped
