"""An agent that speaks the real protocol without any network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.coordinator.toy import create_toy
from tests.signing import identity_of
from tinyfleet.edge_agent.fleet.channel import Channel
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec, topics
from tinyfleet.fedcore.protocol.chunks import Receiver, hash_file, manifest_of, pack_chunk, read_chunk, unpack_chunk
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    ChunkRequest,
    DownMessage,
    Enrolment,
    Goodbye,
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
    Traffic,
    Welcome,
)
from tinyfleet.fedcore.protocol.transport import Received, Transport
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.sparsity.mask import mask_digest


@dataclass
class Agent:
    """One device. ``behaviour`` may replace what it does with a task that has arrived whole."""

    broker: LoopBroker | None
    device: str
    directory: Path
    key: str = ""  # the name of its key, as ``tests.signing`` has it
    session: str = "s1"
    data: DataDescription | None = None  # what it says of its data
    silent: bool = False  # says nothing, reads nothing
    holds_results: bool = False  # computes, and keeps its results back
    behaviour: Callable[[Agent, TaskOffer, Payload], None] | None = None
    seen: list[DownMessage] = field(default_factory=list)
    transport: Transport = None  # type: ignore[assignment]  # made from the broker where it is not given

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.broker is not None:
            self.transport = LoopTransport(self.broker, self.device)
        self.transport.open((topics.down(self.device), topics.down_chunk(self.device)))
        self.receiver: Receiver | None = None
        self.offer: TaskOffer | None = None
        self.masks: dict[str, Mask] = {}
        self.trained = 0  # times
        self.held: list[str] = []  # runs that it says it keeps masks of
        self.begun: set[str] = set()  # results of which the first chunk was asked for
        self.outbox: dict[tuple[str, int], tuple[ResultOffer, Path]] = {}
        self.pin = FleetPin(self.directory / "fleet.json")
        self.begin()

    def begin(self) -> None:
        """A new start, of the key and session that it has now."""
        self.identity = identity_of(self.device, self.key)
        self.channel = Channel(self.identity, self.pin, self.session, clock=lambda: 0.0)

    # -- what it says -------------------------------------------------------------------

    def say(self, message: Message) -> None:
        if self.channel.established or isinstance(message, Hello):
            self.say_sealed(self.channel.seal(message))

    def say_sealed(self, payload: bytes) -> None:
        if not self.silent and self.transport.connected:
            self.transport.publish(topics.up(self.device), payload)

    def say_json(self, body: bytes) -> None:
        """Sign and send whatever it is."""
        self.say_sealed(self.channel._sealed(body, self.channel._next()))

    def hello(self) -> None:
        self.say(self._hello(self.channel.nonce()))

    def _hello(self, nonce: str, answer: str = "") -> Hello:
        task = (self.offer.run, self.offer.step) if self.offer else next(iter(self.outbox), None)
        return Hello(
            self.device,
            self.identity.public_key,
            self.session,
            "0",
            ["torch"],
            samples=50,
            task=task,
            nonce=nonce,
            answer=answer,
            held=self.held,
            data=self.data,
        )

    def heartbeat(self, **health: float) -> None:
        task = (self.offer.run, self.offer.step) if self.offer else next(iter(self.outbox), None)
        self.say(Heartbeat(self.session, task, health or {"rss_bytes": 20e6}))

    def goodbye(self) -> None:
        self.say(Goodbye(self.session, "connection lost"))

    def status(self, state: TaskState, offer: TaskOffer, reason: str = "", **more: Any) -> None:
        self.say(TaskStatus(offer.run, offer.step, state, reason, **more))

    def offer_results(self) -> None:
        for offer, _ in self.outbox.values():
            self.say(offer)

    def put_result(self, task: TaskOffer, blob: bytes, *, train_s: float = 0.5) -> None:
        path = self.directory / f"result-{task.step}"
        path.write_bytes(blob)
        manifest = manifest_of(path, 1000)
        offer = ResultOffer(task.run, task.step, manifest, train_s, 1.0, 50_000_000, "torch", task.base)
        self.outbox[task.run, task.step] = (offer, path)
        self.offer = None
        self.status(TaskState.FINISHED, task)
        if not self.holds_results:
            self.say(offer)

    def restart(self) -> None:
        """A new process: what was in memory is gone."""
        self.session = f"s{int(self.session[1:]) + 1}"
        self.offer = self.receiver = None
        self.masks.clear()
        self.begin()

    # -- what it hears ------------------------------------------------------------------

    def pump(self) -> bool:
        """Handle everything that has arrived; True where there was something."""
        busy = False
        while not self.silent and (event := self.transport.receive(0)) is not None:
            busy = True
            if isinstance(event, Received):
                if event.topic == topics.down_chunk(self.device):
                    self._chunk(event.payload)
                else:
                    message = self.channel.open(event.payload)
                    if message is not None:
                        self._told(message)
        return busy

    def _told(self, message: DownMessage) -> None:
        self.seen.append(message)
        match message:
            case TaskOffer() if (message.run, message.step) not in self.outbox:
                self.offer = message
                self.status(TaskState.ACCEPTED, message)
                self.receiver = Receiver(self.directory, message.manifest)
                self._ask()
            case TaskCancel(run, step) | ResultVerdict(run, step):
                held = self.outbox.pop((run, step), None)
                if self.offer is not None and (self.offer.run, self.offer.step) == (run, step):
                    self.offer = self.receiver = None
                if held is not None and isinstance(message, ResultVerdict):
                    self.say(TaskStatus(run, step, TaskState.ACKNOWLEDGED, traffic=Traffic(1000, 2000)))
            case RunEnded():
                self.masks.clear()
            case ChunkRequest(sha256, start, count):
                if start == 0:
                    self._look_at_result(sha256)
                for offer, path in list(self.outbox.values()):
                    if offer.manifest.sha256 == sha256:
                        for index in range(start, min(start + count, offer.manifest.count)):
                            data = pack_chunk(sha256, index, read_chunk(path, offer.manifest, index))
                            self.transport.publish(topics.up_chunk(self.device), data)
            case HelloWanted():
                self.hello()
            case Challenge():
                self.say(self._hello(message.nonce, message.challenge))
            case Welcome(Enrolment.ACCEPTED):
                self.channel.accepted()
                if not self.holds_results:
                    self.offer_results()
            case _:
                pass

    def _look_at_result(self, sha256: str) -> None:
        """All of it is asked for again: it is dropped where it is damaged here."""
        for key, (offer, path) in list(self.outbox.items()):
            if offer.manifest.sha256 != sha256:
                continue
            if sha256 in self.begun and hash_file(path) != sha256:
                del self.outbox[key]
                self.say(TaskStatus(*key, TaskState.FAILED, "its result was damaged on disk"))
            self.begun ^= {sha256}

    def _ask(self) -> None:
        if self.receiver is None or self.offer is None:
            return
        span = self.receiver.request(8)
        if span is not None:
            self.say(ChunkRequest(self.offer.manifest.sha256, *span))

    def _chunk(self, payload: bytes) -> None:
        if self.receiver is None or self.offer is None:
            return
        self.receiver.accept(unpack_chunk(payload))
        if not self.receiver.complete:
            self._ask()
            return
        blob, offer = self.receiver.finish().read_bytes(), self.offer
        self.receiver = None
        try:
            task = codec.decode(blob, held=self.masks.get)
        except codec.UnknownMask:
            self.offer = None
            self.status(TaskState.NEEDS_MASK, offer)
            return
        self.masks[mask_digest(task.mask)] = task.mask
        self.status(TaskState.RUNNING, offer, local_steps_done=1, local_steps_total=2)
        (self.behaviour or Agent.train)(self, offer, task)

    def train(self, offer: TaskOffer, task: Payload) -> None:
        """The honest answer."""
        self.trained += 1
        spec = msgspec.convert(offer.spec, RunSpec)
        result = create_toy(spec).answer(task, self.device)
        self.put_result(offer, codec.encode(result, precision="fp32", send_mask=False))
