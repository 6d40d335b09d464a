"""What an MQTT 5 broker announces of itself, as far as a client has to obey it (MQTT 5.0, section 3.2.2.3).

Server Keep Alive is obeyed by paho. Nothing of ours is retained, wants a session beyond its connection, an alias
for a topic, or a shared subscription.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Fixed header, length of the topic, packet id, properties: the most that stands around a topic and its payload.
_AROUND_BYTES = 16
NO_LIMIT = 1 << 28  # of a packet: what MQTT's length field can say


@dataclass(frozen=True, slots=True)
class Announced:
    """Receive Maximum, Maximum Packet Size, Maximum QoS; MQTT 3.1.1 announces nothing."""

    receive_maximum: int = 65535
    packet_bytes: int = NO_LIMIT
    qos: int = 1

    @classmethod
    def of(cls, properties: Any) -> Announced:
        """Of the properties of a CONNACK; what is not there has MQTT's default."""
        return cls(
            receive_maximum=getattr(properties, "ReceiveMaximum", 65535),
            packet_bytes=getattr(properties, "MaximumPacketSize", NO_LIMIT),
            qos=getattr(properties, "MaximumQoS", 1),
        )

    def payload_bytes(self, topic: str) -> int:
        """The largest payload that may be published to ``topic``."""
        return max(0, self.packet_bytes - _AROUND_BYTES - len(topic.encode()))
