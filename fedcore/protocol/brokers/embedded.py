"""A broker inside this process (amqtt), on loopback only: for the demo and development without any install.

MQTT 3.1.1 only; it neither enforces keep-alives nor keeps queues for absent clients. Nothing of ours
relies on either: presence is our own heartbeats, and every transfer asks again for what is missing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from typing import Any

from tinyfleet.fedcore.errors import ConfigError, TransportError
from tinyfleet.fedcore.protocol.brokers.mosquitto import START_TIMEOUT_S, free_port

LEVEL_OF_3_1_1 = 4


class EmbeddedBroker:
    """Runs amqtt in a thread with an event loop of its own.

    Raises ``ConfigError`` for any host that is not loopback: anonymous clients are let in.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        if host not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(f"the embedded broker is for loopback, not {host}; on a network use Mosquitto")
        self.host, self.port = host, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> int:
        """Start it; returns the port. Raises ``TransportError`` where amqtt is missing or cannot listen."""
        self.port = self.port or free_port()
        self._started.clear()
        self._thread = threading.Thread(target=self._serve, name="embedded-broker", daemon=True)
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S) or self._error is not None:
            raise TransportError(f"the embedded broker did not start on port {self.port}: {self._error}")
        return self.port

    def stop(self) -> None:
        """Stop it; may be called twice."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(10.0)
        self._loop = self._thread = None

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - start() reports it in the caller's thread
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        from amqtt.broker import Broker

        _refuse_other_versions()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        broker = Broker(self._configuration(), loop=self._loop)
        await broker.start()
        self._started.set()
        await self._stopping.wait()
        await broker.shutdown()

    def _configuration(self) -> dict[str, Any]:
        return {
            "listeners": {"default": {"type": "tcp", "bind": f"{self.host}:{self.port}", "max_connections": 1000}},
            "timeout_disconnect_delay": 2,
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }


@functools.cache
def _refuse_other_versions() -> None:
    """Hang up on a CONNECT of MQTT 5 as soon as its version is read.

    amqtt takes what follows for one of 3.1.1, whose length is then nonsense, and waits for bytes that never come.
    """
    from amqtt.errors import MQTTError
    from amqtt.mqtt.connect import ConnectVariableHeader

    read = ConnectVariableHeader.from_stream

    async def from_stream(cls: Any, reader: Any, fixed_header: Any) -> Any:
        header = await read.__func__(cls, reader, fixed_header)
        if header.proto_level != LEVEL_OF_3_1_1:
            raise MQTTError(f"MQTT protocol level {header.proto_level} is not spoken here")
        return header

    ConnectVariableHeader.from_stream = classmethod(from_stream)
