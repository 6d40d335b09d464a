"""An accepted device that takes part in no round: it greets, and then says goodbye as often as it is told."""

from __future__ import annotations

import random
import socket

from tinyfleet.bench.fleet import packets
from tinyfleet.bench.fleet.channel import VirtualChannel
from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import Challenge, Goodbye, Hello, Welcome

PATIENCE_S = 30.0


def goodbyes(sock: socket.socket, device: str, count: int) -> list[bytes]:
    """So many packets, each signed anew and confirmed, on a connection that stands.

    Raises ``TransportError`` where the coordinator does not welcome the device.
    """
    channel, reader, up = VirtualChannel(device), packets.PacketReader(), topics.up(device)
    sock.settimeout(PATIENCE_S)
    sock.sendall(packets.subscribe(1, (topics.down(device),)))
    hello = Hello(device, channel.public_key, channel.session, "0", [], nonce=f"{random.getrandbits(128):032x}")
    while True:
        try:
            data = sock.recv(1 << 16)
        except TimeoutError:
            raise TransportError(f"{device} was not welcomed within {PATIENCE_S:g} s") from None
        if not data:
            raise TransportError(f"the broker ended the connection of {device}")
        for packet in reader.feed(data):
            if packet.kind == packets.SUBACK:
                sock.sendall(packets.publish(up, channel.seal(hello), 1))
            if packet.kind != packets.PUBLISH:
                continue
            sock.sendall(packets.acknowledge(packet.packet_id))
            match channel.open(packet.payload):
                case Challenge(challenge=challenge):
                    answer = Hello(
                        device, channel.public_key, channel.session, "0", [], nonce=hello.nonce, answer=challenge
                    )
                    sock.sendall(packets.publish(up, channel.seal(answer), 2))
                case Welcome():
                    sock.sendall(packets.publish(up, channel.seal(Goodbye(channel.session)), 3))
                    return [
                        packets.publish(up, channel.seal(Goodbye(channel.session)), number % 65535 + 1)
                        for number in range(count)
                    ]
                case _:
                    pass
