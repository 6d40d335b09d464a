"""What becomes of finished results: offered until the coordinator's verdict comes, and sent as it asks for them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.task.uploads import ResultUploads
from tinyfleet.fedcore.errors import CodecError, TransportError
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Message,
    ResultOffer,
    ResultVerdict,
    TaskState,
    TaskStatus,
    Traffic,
    Verdict,
)
from tinyfleet.fedcore.protocol.transport import Transport

logger = logging.getLogger(__name__)

REOFFER_S = 10.0


class Delivery:
    """Of all results in ``outbox``. ``topic`` is that of their chunks; ``send`` publishes a message if it can."""

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        topic: str,
        send: Callable[[Message], None],
        clock: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._uploads = ResultUploads(outbox, transport, topic)
        self._send = send
        self._clock = clock
        self._next_offers = 0.0
        self._begun: set[str] = set()  # results of which the first chunk was asked for
        self._counted = Traffic()  # socket bytes that earlier tasks have been charged with
        self.refused = ""  # the latest result that does not count, and why

    @property
    def sending(self) -> bool:
        """Whether chunks wait for room in the window of a connection that stands."""
        return self._uploads.waiting and self._transport.connected

    @property
    def oldest(self) -> tuple[str, int] | None:
        """(run, step) of the oldest result that waits for its verdict."""
        waiting = self._outbox.offers()
        return (waiting[0].run, waiting[0].step) if waiting else None

    @property
    def traffic(self) -> Traffic:
        """Bytes through the socket since the agent started."""
        return Traffic(self._transport.bytes_sent, self._transport.bytes_received)

    def offer(self) -> None:
        """Say everything that is in the outbox, and again after a while."""
        self._next_offers = self._clock() + REOFFER_S
        for offer in self._outbox.offers():
            self.say(offer)

    def say(self, message: Message) -> None:
        """Any message; of a result the size of the chunks in which the broker takes it."""
        self._send(self._uploads.fitting(message) if isinstance(message, ResultOffer) else message)

    def tick(self) -> None:
        """Offer again where it is time to."""
        if self._clock() >= self._next_offers:
            self.offer()

    def requested(self, request: ChunkRequest) -> None:
        """The coordinator asks for chunks.

        Of all of a result once more where what arrived was not what was offered: damaged here, or on its way, where
        nobody signs a chunk. Only the first is a reason to drop it.
        """
        if request.start == 0 and request.sha256 in self._begun:
            self._put_damaged_aside("it arrived damaged")
        elif request.start == 0 and self._outbox.find(request.sha256) is not None:
            self._begun.add(request.sha256)
        if not self._uploads.asked(request):
            logger.info("asked for chunks of %s, which is not in the outbox", request.sha256[:12])

    def judged(self, verdict: ResultVerdict) -> None:
        """The coordinator has decided: the outbox lets go, and the task's traffic is reported.

        A result that was stored, and so is in the outbox no more, may be refused when its step closes.
        """
        held = self._outbox.drop(verdict.run, verdict.step)
        if verdict.verdict is Verdict.REFUSED:
            refused = f"run {verdict.run} step {verdict.step}: result refused ({verdict.reason})"
            if held or refused != self.refused:
                logger.warning("%s", refused)
            self.refused = refused
            return
        if not held:
            return
        traffic = self.traffic
        since = Traffic(traffic.sent - self._counted.sent, traffic.received - self._counted.received)
        self._counted = traffic
        self._send(TaskStatus(verdict.run, verdict.step, TaskState.ACKNOWLEDGED, verdict.reason, traffic=since))

    def pump(self) -> None:
        """Send what the window takes now."""
        try:
            self._uploads.pump()
        except (CodecError, OSError) as error:
            self._uploads.clear()
            self._put_damaged_aside(error)
        except TransportError as error:
            logger.info("upload interrupted: %s", error)
            self._uploads.clear()

    def _put_damaged_aside(self, error: object) -> None:
        """Results that are no longer whole on disk go: the coordinator has their tasks done again."""
        self._begun.clear()
        for offer in self._outbox.damaged():
            logger.warning("run %s step %d: result is damaged on disk (%s); dropped", offer.run, offer.step, error)
            self._outbox.drop(offer.run, offer.step)
            self._send(TaskStatus(offer.run, offer.step, TaskState.FAILED, "its result was damaged on disk"))

    def interrupted(self) -> None:
        """The connection has changed: the coordinator asks again."""
        self._begun.clear()
        self._uploads.clear()
