"""An agent over the loop transport, a coordinator that speaks the real protocol, and workers that obey a script."""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.patience import PATIENCE_S
from tests.signing import FLEET_KEY, Signer, identity_of
from tinyfleet.edge_agent.config import AgentConfig, load
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.self_report import Board
from tinyfleet.edge_agent.supervisor import Supervisor
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Governor, TaskLimits
from tinyfleet.edge_agent.worker.commands import Command, TaskCommand, TaskDone, TrainingBegan
from tinyfleet.edge_agent.worker.process import Event
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import DEFAULT_CHUNK_BYTES, pack_chunk, unpack_chunk
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.protocol.messages import (
    Challenge,
    ChunkRequest,
    Enrolment,
    Goodbye,
    Hello,
    HelloWanted,
    Manifest,
    Message,
    ResultVerdict,
    TaskOffer,
    TaskState,
    TaskStatus,
    Verdict,
    Welcome,
    decode_up,
)
from tinyfleet.fedcore.protocol.signed.envelope import Direction, unseal
from tinyfleet.fedcore.protocol.signed.signatures import SigningKey, fleet_id, key_bytes, key_text
from tinyfleet.fedcore.protocol.transport import Event as TransportEvent
from tinyfleet.fedcore.protocol.transport import Received, Transport
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec, TrainingSettings

IDENTITY = identity_of("porch")
BASE = "ba" * 32
SPEC = RunSpec(
    method={"name": "fedavg"},
    training=TrainingSettings(batch=8),
    fleet=FleetSettings(staleness=0),
)


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedWorker:
    """Stands in for the process: a test hands it the events that a worker would emit."""

    def __init__(self, run: str, limits: TaskLimits) -> None:
        self.run = run
        self.limits = limits
        self.kind = "scripted"
        self.held_by = "memory: none, cpu: none"
        self.patience_s = 60.0
        self.rss_bytes = 77
        self.peak_rss_bytes = 99
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.paused = False
        self.closed = False

    def send(self, command: Command) -> None:
        assert not self.closed
        self.commands.append(command)

    def poll(self, now: float) -> Event | None:
        assert not self.closed
        return self.events.pop(0) if self.events and not self.paused else None

    def pause(self) -> None:
        assert not self.closed
        self.paused = True

    def resume(self) -> None:
        assert not self.closed
        self.paused = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    @property
    def task(self) -> TaskCommand:
        """The last task that it was given."""
        return [command for command in self.commands if isinstance(command, TaskCommand)][-1]

    def finish(self, content: bytes = b"result", train_s: float = 1.5) -> None:
        """What a worker does at the end of a task."""
        Path(self.task.result).write_bytes(content)
        self.events += [TrainingBegan("torch"), TaskDone(train_s, 123, "torch")]


class Coordinator:
    """Keeps what the agent says; serves the blobs that it offers, and meets every greeting with its challenge.

    Of a greeting only the second hello is kept, without nonce and answer.
    """

    def __init__(self, transport: Transport, device: str = IDENTITY.device, key: SigningKey = FLEET_KEY) -> None:
        self.transport = transport
        self.device = device
        self.key = key
        self.restart()
        transport.open((topics.ALL_UP, topics.ALL_UP_CHUNKS))
        self.heard: list[Message] = []
        self.chunks: dict[int, bytes] = {}
        self.blobs: dict[str, tuple[Manifest, bytes]] = {}
        self.serving = True

    def restart(self) -> None:
        """A new session, to which no agent is known."""
        self.challenge = ""
        session, fleet = secrets.token_hex(8), fleet_id(self.key.public)
        self.signer = Signer(self.key, Direction.DOWN, self.device, session, fleet=fleet)

    def say(self, message: Message | bytes) -> None:
        self.transport.publish(topics.down(self.device), self.signer.seal(message))

    def welcome(self, enrolment: Enrolment = Enrolment.ACCEPTED, heartbeat_s: float = 5.0) -> None:
        self.say(Welcome(enrolment, heartbeat_s))

    def offer(
        self, step: int = 0, blob: bytes = b"task", *, run: str = "r", spec: RunSpec = SPEC, lease_s: float = 600.0
    ) -> TaskOffer:
        manifest = Manifest(hashlib.sha256(blob).hexdigest(), len(blob), DEFAULT_CHUNK_BYTES)
        self.blobs[manifest.sha256] = (manifest, blob)
        offer = TaskOffer(run, step, "train", lease_s, manifest, msgspec.to_builtins(spec), BASE)
        self.say(offer)
        return offer

    def verdict(self, step: int = 0, verdict: Verdict = Verdict.STORED, run: str = "r") -> None:
        self.say(ResultVerdict(run, step, verdict))

    def listen(self, timeout: float = 0.0) -> None:
        """Take in everything that has come, waiting at most ``timeout``, and serve what was asked for."""
        event = self.transport.receive(timeout)
        while event is not None:
            self.take(event)
            event = self.transport.receive(0.0)

    def await_(self, condition: Callable[[], Any], timeout: float = PATIENCE_S) -> Any:
        """Listen until ``condition`` holds; its value."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            assert time.monotonic() < deadline, f"heard only {self.heard[-12:]}"
            self.listen(0.05)
        return value

    def take(self, event: TransportEvent) -> None:
        if not isinstance(event, Received):
            return
        if event.topic.endswith("/chunk"):
            chunk = unpack_chunk(event.payload)
            self.chunks[chunk.index] = bytes(chunk.data)
            return
        envelope = unseal(event.payload)
        message = decode_up(bytes(envelope.body))
        if isinstance(message, Hello):
            self.public_key = key_bytes(message.public_key)
        assert self.public_key is not None
        assert envelope.signed_by(self.public_key, Direction.UP)
        if isinstance(message, Hello):
            self.signer.peer = envelope.session
            if not message.answer:
                self.challenge = secrets.token_hex(16)
                self.say(Challenge(message.nonce, self.challenge, key_text(self.key.public)))
                return
            if message.answer != self.challenge:
                return  # to another coordinator's
            message = msgspec.structs.replace(message, nonce="", answer="")
        elif envelope.peer != self.signer.session and not isinstance(message, Goodbye):
            self.signer.peer = envelope.session
            self.say(HelloWanted())
            return
        self.heard.append(message)
        if isinstance(message, ChunkRequest) and self.serving:
            self.serve(message)

    def fetch(self, manifest: Manifest) -> bytes:
        """A whole result, in ranges of eight chunks."""
        self.chunks.clear()
        for start in range(0, manifest.count, 8):
            count = min(8, manifest.count - start)
            self.say(ChunkRequest(manifest.sha256, start, count))
            wanted = set(range(start, start + count))
            self.await_(lambda wanted=wanted: wanted <= set(self.chunks))
        blob = b"".join(self.chunks[index] for index in range(manifest.count))
        assert hashlib.sha256(blob).hexdigest() == manifest.sha256
        return blob

    def serve(self, request: ChunkRequest) -> None:
        manifest, blob = self.blobs[request.sha256]
        for index in range(request.start, min(request.start + request.count, manifest.count)):
            data = blob[index * manifest.chunk_size : (index + 1) * manifest.chunk_size]
            payload = pack_chunk(request.sha256, index, data)
            self.transport.publish(topics.down_chunk(self.device), payload)

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.heard if type(message) is kind]

    @property
    def states(self) -> list[TaskState]:
        """Of every task status, as they came."""
        return [status.state for status in self.of(TaskStatus)]


class Rig:
    """The agent and its coordinator on one loop broker."""

    def __init__(self, state: Path, *, engines: tuple[str, ...] = ("torch",), policy: str = "fresh") -> None:
        self.state = state
        self.broker = LoopBroker()
        self.coordinator = Coordinator(LoopTransport(self.broker, "coordinator"))
        self.clock = Clock()
        self.workers: list[ScriptedWorker] = []
        self.config: AgentConfig = load(None, {"limits.policy": policy, "limits.threads": 1})
        self.governor = Governor(
            state / "governor.json",
            memory_limit_bytes=100_000_000,
            usable=lambda: 10**9,
            threads=1,
            policy=self.config.limits.policy,
            engine="auto",
        )
        self.engines = engines
        self.agent = self.start()

    def start(self) -> Supervisor:
        """A new agent on the same state directory, as after a restart."""
        self.outbox = Outbox(
            self.state / "outbox", max_bytes=10**8, max_age_s=1e6, wall_clock=lambda: 1_800_000_000.0
        )
        self.transport = LoopTransport(self.broker, IDENTITY.client_id)
        self.agent = Supervisor(
            IDENTITY,
            FleetPin(self.state / "fleet.json"),
            self.config,
            Board(self.engines, 100),
            self.transport,
            state=self.state,
            governor=self.governor,
            outbox=self.outbox,
            inbox=Inbox(self.state / "inbox", 10**8),
            start_worker=self._start_worker,
            clock=self.clock,
            rng=random.Random(0),
        )
        self.agent.open()
        return self.agent

    def _start_worker(self, run: str, limits: TaskLimits) -> ScriptedWorker:
        self.workers.append(ScriptedWorker(run, limits))
        return self.workers[-1]

    @property
    def worker(self) -> ScriptedWorker:
        return self.workers[-1]

    def settle(self, seconds: float = 0.0, turns: int = 6) -> None:
        """Let ``seconds`` pass, and both sides talk until nothing is left to say."""
        self.clock.now += seconds
        for _ in range(turns):
            self.agent.turn(0.0)
            self.coordinator.listen()

    def accepted(self) -> None:
        self.settle()
        self.coordinator.welcome()
        self.settle()

    def training(self, step: int = 0, **offer: Any) -> TaskOffer:
        """Bring the agent to where its worker has the task."""
        made = self.coordinator.offer(step, **offer)
        self.settle()
        assert self.agent.assignment.key == (made.run, step)
        return made
