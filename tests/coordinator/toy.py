"""A method that needs no engine, and agents that speak the real protocol without any network."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.coordinator.run.engine_process import Evaluated, EngineAnswer, EngineFailed, Prepared
from tinyfleet.coordinator.service import Service
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.fedavg import Static, StaticSettings
from tinyfleet.fedcore.methods.method import Problem, device_seed
from tinyfleet.fedcore.models.graph import Graph, Node, Op
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec, topics
from tinyfleet.fedcore.protocol.chunks import Receiver, manifest_of, pack_chunk, read_chunk, unpack_chunk
from tinyfleet.fedcore.protocol.loop import LoopBroker, LoopTransport
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    DownMessage,
    Goodbye,
    Heartbeat,
    Hello,
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
    decode_down,
    encode,
)
from tinyfleet.fedcore.protocol.transport import Received, Transport
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec, TrainingSettings, WireSettings
from tinyfleet.fedcore.sparsity.mask import apply_mask, mask_digest

NO_DATA = Dataset(np.zeros((0, 1, 4, 4), np.uint8), np.zeros(0, np.int64), 3)


def toy_graph(width: int = 40) -> Graph:
    """16 inputs, two hidden layers of which the second may be pruned, 3 classes."""
    nodes = (
        Node("flatten", Op.FLATTEN, ("input",)),
        Node("first", Op.LINEAR, ("flatten",), 16, width, bias=True),
        Node("relu", Op.RELU, ("first",)),
        Node("hidden", Op.LINEAR, ("relu",), width, width, bias=True),
        Node("output", Op.LINEAR, ("hidden",), width, 3, bias=True),
    )
    return Graph("toy", (1, 4, 4), 3, nodes, (("hidden",),))


class ToyMethod(Static):
    """Static masks; a device's training is a seeded random step, so every result is known in advance."""

    def initial_state(self, engine: Any, public: Dataset) -> Payload:
        params = self.problem.graph.initial_params(self.problem.seed)
        mask = self.initial_mask()
        apply_mask(params, mask)
        normalization: Any = {"mean": [0.5], "std": [0.25], "scale": 255.0}
        return Payload({"step": 0, "stage": "train", "round": 0, "normalization": normalization}, params, mask)

    def answer(self, task: Payload, device: str) -> Payload:
        """What ``device`` sends for ``task``."""
        rng = device_seed(self.problem.seed, task, device)
        params = {
            name: value + 0.01 * rng.standard_normal(value.shape, dtype=np.float32)
            for name, value in task.params.items()
        }
        apply_mask(params, task.mask)
        samples = 10 + int(hashlib.sha256(device.encode()).hexdigest()[:2], 16)
        return Payload({"step": task.meta["step"], "samples": samples, "loss": 0.5}, params, task.mask)


def toy_spec(*, rounds: int = 3, seed: int = 7, width: int = 40, **fleet: Any) -> RunSpec:
    return RunSpec(
        name="toy",
        seed=seed,
        method={"name": "static", "density": 0.3},
        training=TrainingSettings(rounds=rounds),
        model=msgspec.structs.replace(RunSpec().model, arguments={"width": width}),
        fleet=FleetSettings(**fleet),
        wire=WireSettings(precision="fp32"),
    )


def create_toy(spec: RunSpec) -> ToyMethod:
    width = int(spec.model.arguments["width"])
    return ToyMethod(StaticSettings(density=0.3), Problem(toy_graph(width), spec.training, spec.seed, "fp32"))


class InstantEngine:
    """Stands in for the engine process: answers at the next poll."""

    def __init__(self) -> None:
        self.events: list[EngineAnswer] = []
        self.evaluated: list[int] = []
        self.fail = ""

    def prepare(self, spec: RunSpec, target: Path) -> None:
        if self.fail:
            self.events.append(EngineFailed(self.fail))
            return
        target.write_bytes(codec.encode(create_toy(spec).initial_state(None, NO_DATA), precision="fp32"))
        self.events.append(Prepared(target))

    def evaluate(self, spec: RunSpec, step: int, state: Path) -> None:
        payload = codec.decode(state.read_bytes())
        self.evaluated.append(step)
        self.events.append(Evaluated(step, 1.0 / (1 + int(payload.meta["step"])), 0.9))  # type: ignore[arg-type]

    def poll(self) -> EngineAnswer | None:
        return self.events.pop(0) if self.events else None

    def close(self) -> None:
        self.events.clear()


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Agent:
    """One device. ``behaviour`` may replace what it does with a task that has arrived whole."""

    broker: LoopBroker | None
    device: str
    directory: Path
    key: str = ""
    session: str = "s1"
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
        self.outbox: dict[tuple[str, int], tuple[ResultOffer, Path]] = {}
        self.key = self.key or f"key-of-{self.device}"

    # -- what it says -------------------------------------------------------------------

    def say(self, message: Message) -> None:
        if not self.silent and self.transport.connected:
            self.transport.publish(topics.up(self.device), encode(message))

    def hello(self) -> None:
        task = (self.offer.run, self.offer.step) if self.offer else next(iter(self.outbox), None)
        self.say(Hello(self.device, self.key, self.session, "0", ["torch"], samples=50, task=task))

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
        offer = ResultOffer(task.run, task.step, manifest_of(path, 1000), train_s, 1.0, 50_000_000, "torch")
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
                    self._told(decode_down(event.payload))
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
                for offer, path in list(self.outbox.values()):
                    if offer.manifest.sha256 == sha256:
                        for index in range(start, min(start + count, offer.manifest.count)):
                            data = pack_chunk(sha256, index, read_chunk(path, offer.manifest, index))
                            self.transport.publish(topics.up_chunk(self.device), data)
            case Welcome() | _:
                pass

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
        spec = msgspec.convert(offer.spec, RunSpec)
        result = create_toy(spec).answer(task, self.device)
        self.put_result(offer, codec.encode(result, precision="fp32", send_mask=False))


class Fleet:
    """A service and its agents over one loop broker, driven by hand."""

    def __init__(self, directory: Path, devices: int = 3, **config: Any) -> None:
        self.directory = directory
        self.config = CoordinatorConfig(**{"auto_accept": True, **config})
        self.clock = Clock()
        self.broker = LoopBroker()
        self.engine = InstantEngine()
        self._generation = itertools.count()
        self.agents = {
            name: Agent(self.broker, name, directory / name) for name in (f"board-{i}" for i in range(devices))
        }
        self.start()

    def start(self) -> None:
        """A coordinator process begins (again, where ``vanish`` ended the last)."""
        self.store = Store(self.directory / "state", clock=lambda: 1.7e9 + self.clock.now)
        self.transport = LoopTransport(self.broker, f"coordinator-{next(self._generation)}")
        self.engine = InstantEngine()
        self.service = Service(
            self.store, self.transport, self.config, engine=self.engine, create=create_toy, clock=self.clock
        )
        self.service.start()

    def vanish(self) -> None:
        """The coordinator dies without a word: nothing in memory survives, nothing is flushed."""
        self.transport.close()
        self.store.close()

    def hello(self) -> None:
        for agent in self.agents.values():
            agent.hello()
        self.turn()

    def turn(self) -> None:
        """Let everything that is on its way arrive, until nothing moves."""
        for _ in range(500):
            self.service.poll(0)
            if self._pump():
                continue
            self.service.poll(0)
            if not self._pump():
                return
        raise AssertionError("the fleet does not come to rest")

    def _pump(self) -> bool:
        moved = [agent.pump() for agent in self.agents.values()]
        return any(moved)

    def sleep(self, seconds: float) -> None:
        """Time passes; agents send a heartbeat every second."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + 1.0)
            for agent in self.agents.values():
                agent.heartbeat()
            self.turn()

    def state_bytes(self, run: str) -> bytes:
        path = self.store.state_blob(run)
        assert path is not None
        return path.read_bytes()
