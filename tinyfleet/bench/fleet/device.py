"""One virtual device: it speaks as an agent does, and trains nothing."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.bench.fleet.channel import VirtualChannel
from tinyfleet.bench.fleet.result import SAMPLES, VirtualResult
from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import pack_chunk, unpack_chunk
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    ChunkRequest,
    Heartbeat,
    Hello,
    HelloWanted,
    Message,
    ResultOffer,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    TaskOffer,
    TaskState,
    TaskStatus,
    Welcome,
)
from tinyfleet.fedcore.training.native.facts import NATIVE

REQUEST_CHUNKS = 8
REPEAT_S = 10.0  # what was not answered is said again


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A result that was offered and judged. Wall clock in seconds: processes compare it."""

    device: str
    step: int
    taken_at: float  # the task's offer came
    offered_at: float
    judged_at: float
    verdict: str
    result_bytes: int


class VirtualDevice:
    """``send(topic, payload)`` publishes; ``answer(offer, blob, number)`` makes a result.

    ``train_s`` is how long it pretends to train.
    """

    def __init__(
        self,
        name: str,
        number: int,
        send: Callable[[str, bytes], None],
        answer: Callable[[TaskOffer, bytes, int], VirtualResult],
        told: Callable[[Acknowledged], None],
        train_s: float = 0.0,
    ) -> None:
        self.name, self._number = name, number
        self._send, self._answer, self._told, self._train_s = send, answer, told, train_s
        self._channel = VirtualChannel(name)
        self.welcomed = False
        self._heartbeat_s = 5.0
        self._beat_at = self._again_at = 0.0
        self.offer: TaskOffer | None = None
        self._taken_at = self._offered_at = 0.0
        self._chunks: dict[int, bytes] = {}
        self._result: VirtualResult | None = None
        self._trained_at = 0.0
        self._asked = 0  # chunks of the present request that have not come

    # -- what it says -------------------------------------------------------------------

    def say(self, message: Message) -> None:
        """Publish a message, signed."""
        self._send(topics.up(self.name), self._channel.seal(message))

    def connected(self) -> None:
        """The subscription stands."""
        self._greet(nonce=f"{random.getrandbits(128):032x}")
        self._again_at = time.monotonic() + REPEAT_S * random.uniform(0.5, 1.0)

    def _greet(self, **more: str) -> None:
        channel = self._channel
        self.say(
            Hello(self.name, channel.public_key, channel.session, "0", [NATIVE.name], samples=SAMPLES, **more)  # type: ignore[arg-type]
        )

    def tick(self, now: float) -> None:
        """Say what is due."""
        if not self.welcomed:
            if now >= self._again_at:
                self.connected()
            return
        if now >= self._beat_at:
            self._beat_at = now + self._heartbeat_s
            self.say(Heartbeat(self._channel.session, self._key, {"rss_bytes": 20e6}))
        if self.offer is not None and self._trained_at and now >= self._trained_at:
            self._trained_at = 0.0
            self._finish(self.offer)
        elif self.offer is not None and not self._trained_at and now >= self._again_at:
            self._again_at = now + REPEAT_S
            self._go_on()

    @property
    def _key(self) -> tuple[str, int] | None:
        return None if self.offer is None else (self.offer.run, self.offer.step)

    # -- what it hears ------------------------------------------------------------------

    def received(self, topic: str, payload: bytes) -> None:
        """A publish on one of its topics."""
        if topic.endswith("/chunk"):
            self._on_chunk(payload)
            return
        match self._channel.open(payload):
            case Challenge(nonce=nonce, challenge=challenge):
                self._greet(nonce=nonce, answer=challenge)
            case HelloWanted():
                self.connected()
            case Welcome(heartbeat_s=heartbeat_s):
                self.welcomed, self._heartbeat_s = True, heartbeat_s
                self._beat_at = time.monotonic() + random.uniform(0.0, heartbeat_s)
            case TaskOffer() as offer:
                self._on_offer(offer)
            case ChunkRequest(sha256, start, count):
                self._on_request(sha256, start, count)
            case ResultVerdict() as verdict:
                self._on_verdict(verdict)
            case TaskCancel() | RunEnded():
                self._forget()

    def _on_offer(self, offer: TaskOffer) -> None:
        if self._key == (offer.run, offer.step):
            self._go_on()
            return
        self._forget()
        self.offer, self._taken_at = offer, time.time()
        self.say(TaskStatus(offer.run, offer.step, TaskState.ACCEPTED))
        self._ask()

    def _on_chunk(self, payload: bytes) -> None:
        chunk = unpack_chunk(payload)
        if self.offer is None or self._result is not None or chunk.sha256 != self.offer.manifest.sha256:
            return
        self._chunks[chunk.index] = chunk.data
        self._asked -= 1
        if len(self._chunks) == self.offer.manifest.count:
            self._train(self.offer)
        elif self._asked <= 0:
            self._ask()

    def _ask(self) -> None:
        if self.offer is None:
            return
        manifest = self.offer.manifest
        missing = next(index for index in range(manifest.count) if index not in self._chunks)
        self._asked = min(REQUEST_CHUNKS, manifest.count - missing)
        self._again_at = time.monotonic() + REPEAT_S
        self.say(ChunkRequest(manifest.sha256, missing, self._asked))

    def _train(self, offer: TaskOffer) -> None:
        blob = b"".join(self._chunks[index] for index in range(offer.manifest.count))
        self._chunks.clear()
        if hashlib.sha256(blob).hexdigest() != offer.manifest.sha256:
            raise CodecError(f"{self.name}: the task arrived damaged")
        self._result = self._answer(offer, blob, self._number)
        self.say(TaskStatus(offer.run, offer.step, TaskState.RUNNING))
        if self._train_s:
            self._trained_at = time.monotonic() + self._train_s
        else:
            self._finish(offer)

    def _finish(self, offer: TaskOffer) -> None:
        self.say(TaskStatus(offer.run, offer.step, TaskState.FINISHED))
        self._offered_at = time.time()
        self._go_on()

    def _go_on(self) -> None:
        """Say again what was not answered."""
        self._again_at = time.monotonic() + REPEAT_S
        if self.offer is None or self._trained_at:
            return
        if self._result is None:
            self._ask()
            return
        offer, taken_s, manifest = self.offer, self._train_s, self._result.manifest
        self.say(ResultOffer(offer.run, offer.step, manifest, taken_s, taken_s, 1, NATIVE.name, offer.base))

    def _on_request(self, sha256: str, start: int, count: int) -> None:
        result = self._result
        if result is None or result.manifest.sha256 != sha256:
            return
        self._again_at = time.monotonic() + REPEAT_S
        for index in range(start, min(start + count, result.manifest.count)):
            self._send(topics.up_chunk(self.name), pack_chunk(sha256, index, result.chunk(index)))

    def _on_verdict(self, verdict: ResultVerdict) -> None:
        if self.offer is None or (verdict.run, verdict.step) != self._key or self._result is None:
            return
        times, size = (self._taken_at, self._offered_at, time.time()), self._result.manifest.size
        self._told(Acknowledged(self.name, verdict.step, *times, verdict.verdict.value, size))
        self.say(TaskStatus(verdict.run, verdict.step, TaskState.ACKNOWLEDGED))
        self._forget()

    def _forget(self) -> None:
        self.offer = self._result = None
        self._trained_at = 0.0
        self._chunks.clear()


class FloodingDevice(VirtualDevice):
    """Accepted like all others. It refuses its tasks, and sends what nobody asked for, ``per_s`` times a second."""

    per_s = 20.0

    def _on_offer(self, offer: TaskOffer) -> None:
        self.offer = offer
        self.say(TaskStatus(offer.run, offer.step, TaskState.FAILED, "hostile"))

    def tick(self, now: float) -> None:
        """Ten kinds of rubbish in turn, as often as the clock of the crowd comes by."""
        super().tick(now)
        if not self.welcomed:
            return
        for _ in range(max(1, round(self.per_s * TICK_S))):
            self._turn = getattr(self, "_turn", 0) + 1
            digest = self.offer.manifest.sha256 if self.offer else "ab" * 32
            match self._turn % 6:
                case 0:
                    self._send(topics.up(self.name), random.randbytes(200))
                case 1:
                    self._send(topics.up(self.name), b"[" * 60_000)
                case 2:
                    self._send(topics.up_chunk(self.name), pack_chunk("cd" * 32, 0, random.randbytes(90_000)))
                case 3:
                    self.say(ChunkRequest(digest, 0, 1024))
                case 4:
                    self.say(TaskStatus("no such run", 0, TaskState.RUNNING, "x" * 1900))
                case _:
                    self.connected()


TICK_S = 0.25  # how often a crowd asks each of its devices what is due
