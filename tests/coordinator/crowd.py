"""Many strangers, each with a key of its own, on one connection."""

from __future__ import annotations

from collections.abc import Callable

from tests.signing import Signer, key_named, public_key_of
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.protocol.messages import Challenge, Hello, decode_down
from tinyfleet.fedcore.protocol.signed.envelope import Direction, unseal
from tinyfleet.fedcore.protocol.transport import Received


class Crowd:
    """Greets under any name, as a board with that name's own key would."""

    def __init__(self, broker: LoopBroker) -> None:
        self.transport = LoopTransport(broker, "crowd")
        self.transport.open((topics.down("+"),))

    def greet(self, device: str, turn: Callable[[], None]) -> None:
        """A whole greeting; ``turn`` lets the other side answer."""
        signer = Signer(key_named(device), Direction.UP, device, "s1", fleet="")
        hello = Hello(device, public_key_of(device), "s1", "0", [], nonce="0" * 32)
        self.transport.publish(topics.up(device), signer.seal(hello))
        turn()
        while (event := self.transport.receive(0)) is not None:
            if not isinstance(event, Received) or event.topic != topics.down(device):
                continue
            message = decode_down(bytes(unseal(event.payload).body))
            if isinstance(message, Challenge):
                answer = Hello(device, hello.public_key, "s1", "0", [], nonce="0" * 32, answer=message.challenge)
                self.transport.publish(topics.up(device), signer.seal(answer))
        turn()
