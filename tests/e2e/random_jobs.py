"""Random small jobs: drawn from a seed, and run through the agent's own task logic with real worker processes."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tinyfleet.edge_agent.config import AgentConfig, AgentDataSettings
from tinyfleet.edge_agent.guards.guards import GuardLimits, Guards
from tinyfleet.edge_agent.states import AssignmentState
from tinyfleet.edge_agent.task.assignment import Assignment
from tinyfleet.edge_agent.task.inbox import Inbox
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.edge_agent.worker.budget import Governor, TaskLimits
from tinyfleet.edge_agent.worker.commands import Chosen, Planned, Tightened
from tinyfleet.edge_agent.worker.pauses import Pauses
from tinyfleet.edge_agent.worker.process import Event, WorkerProcess
from tinyfleet.fedcore.accounting import layer_flops
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.fedavg import random_start
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts import bn_selection
from tinyfleet.fedcore.methods.parts.adjusting import Adjusting
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.models.graph import Op
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.planning.plan import MARGIN
from tinyfleet.fedcore.protocol.chunks import DEFAULT_CHUNK_BYTES, pack_chunk
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Manifest, Message, TaskOffer, TaskState, TaskStatus
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.sparsity.mask import apply_mask
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

# A worker's limits in bytes, by engine: least, most, and the likeliest, at which many jobs fit in some way only.
LIMITS = {"native": (46e6, 180e6, 62e6), "torch": (260e6, 600e6, 320e6)}
CLASSES = 10
MOST_GFLOP = 150.0  # dense arithmetic of one job: seconds of a core
MOST_VALUES = 9e7  # activations: what pruned caches and fresh pages cost
MOST_TRIES = 8
TASK_S = 600.0
IMAGES = ((1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 96, 96))
MODELS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]] = {
    "small_cnn": (IMAGES, (16, 32)),
    "resnet8": (IMAGES[1:], (16, 32)),
    "resnet20": (IMAGES[1:], (16, 32)),
    "resnet18": (IMAGES[1:], (16, 32, 64)),
    "vgg11": (IMAGES[1:], (16, 32, 64)),
    "mobilenet_v2": (IMAGES[1:], (0.25, 0.5, 1.0)),
    "sensor_cnn": (((9, 128), (3, 512)), (32, 64)),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One task on one emulated board."""

    number: int
    engine: str
    spec: RunSpec
    stage: str
    steps: int
    keep: float
    samples: int
    limit_bytes: int
    hard: str  # which hard limit: "cgroup" where one may be made, or "data"


@dataclass(slots=True)
class Try:
    """One go at a job. Bytes; ``rss_bytes`` is what the watcher saw at most, ``data_bytes`` what was reserved."""

    way: int
    ways: int
    first: str  # levers of the plan, and those at the end
    last: str
    predicted_bytes: int
    target_bytes: int
    fits: bool
    outcome: str
    reason: str
    levers: Levers
    rss_bytes: int
    data_bytes: int
    peak_bytes: int  # as the worker itself tells at its end
    hard: str
    seconds: float


@dataclass(slots=True)
class Record:
    job: Job
    tries: list[Try] = field(default_factory=list)


def draw(number: int, engine: str, rng: random.Random) -> Job:
    """A job that trains within seconds; whether it fits its limit is another matter."""
    while True:
        name = rng.choice(list(MODELS))
        shapes, widths = MODELS[name]
        method = rng.choice(("fedtiny", "fedmef", "tinyfleet", "fedavg"))
        norm = "nsconv" if method == "fedmef" and rng.random() < 0.7 else "batch"
        arguments = {"width": rng.choice(widths), "norm": norm}
        model = ModelSettings(name, rng.choice(shapes), CLASSES, arguments)
        batch, steps = rng.choice((8, 16, 32, 48, 64, 96, 128)), rng.choice((2, 3, 4))
        graph = build(model)
        flops = sum(layer_flops(graph, node.weight) for node in graph.nodes if node.op in (Op.CONV, Op.LINEAR))
        values = sum(int(np.prod(shape)) for shape in graph.shapes.values())
        if 3.0 * flops * batch * steps / 1e9 <= MOST_GFLOP and values * batch * steps <= MOST_VALUES:
            break
    settings: dict[str, Any] = {"name": method, "pretrained": False}
    if method != "fedavg":
        settings |= {"density": rng.choice((0.01, 0.05, 0.2, 0.5)), "interval": 1}
        settings["growth_batch"] = rng.choice((0, 0, 0, 2 * batch))
    if method == "fedmef":
        settings["activation_keep"] = rng.choice((0.3, 0.5, 1.0))
    stage = "train"
    if method == "fedtiny" and norm == "batch" and rng.random() < 0.3:
        stage = rng.choice(("bn_statistics", "bn_selection"))
        settings |= {"candidates": 2, "statistics_passes": 2}
    training = TrainingSettings(batch=batch, learning_rate=0.01, momentum=rng.choice((0.0, 0.9)))
    # The development set is a tenth: a job of a selection stage sees no more.
    samples = batch * (steps if stage == "train" else 10)
    return Job(
        number,
        engine,
        RunSpec(seed=number, method=settings, model=model, training=training),
        stage,
        steps,
        rng.choice((1.0, 1.0, 1.0, 0.5)),
        samples,
        round(rng.triangular(*LIMITS[engine])),
        rng.choice(("cgroup", "data")),
    )


def task_of(job: Job) -> bytes:
    """The job's blob, its model untrained: no engine is needed."""
    method: Method = create(job.spec.method, problem_of(job.spec))
    problem = method.problem
    rng = np.random.default_rng(job.number)
    public = Dataset(rng.integers(0, 255, (20, *problem.graph.input_shape), dtype=np.uint8), np.arange(20) % 10, 10)
    if job.spec.method["name"] == "tinyfleet":  # its own start prunes on public data
        assert isinstance(method, Adjusting)
        state = Adjusting.initial_state(method, None, public)  # type: ignore[arg-type]
        state.mask = random_start(problem, method.settings.density, "erk")
        apply_mask(state.params, state.mask)
    else:
        state = method.initial_state(None, public)  # type: ignore[arg-type]
    state.meta["round"] = 1  # of those that adjust
    state.meta["stage"] = job.stage
    if job.stage == "train":
        state.meta.pop("candidates", None)
    if job.stage == "bn_selection":
        for index in range(len(state.meta["candidates"])):  # type: ignore[arg-type]
            for name in problem.graph.statistics:
                state.params[bn_selection.statistic_name(index, name)] = state.params[name]
    return encode(method.configure_round(Payload(state.meta, state.params, state.mask)), precision="fp16")


def data_of(job: Job, directory: Path) -> AgentDataSettings:
    """All of a small file is the device's."""
    shape = job.spec.model.input_shape
    path = directory / f"{'x'.join(map(str, shape))}-{job.samples}.npz"
    if not path.exists():
        rng = np.random.default_rng(job.samples)
        x = rng.integers(0, 255, (job.samples, *shape), dtype=np.uint8)
        np.savez(path, x=x, y=np.arange(job.samples) % CLASSES)
    return AgentDataSettings(source=f"arrays:{path}", public_fraction=0.0, test_fraction=0.0)


class Overheard(WorkerProcess):
    """A worker whose plans are written down, whatever comes after them in the same moment."""

    def __init__(self, *arguments: Any, chosen: list[Chosen]) -> None:
        super().__init__(*arguments)
        self._heard = chosen

    def poll(self, now: float) -> Event | None:
        event = super().poll(now)
        if isinstance(event, Planned | Tightened) and event.chosen.ways:
            self._heard.append(event.chosen)
        return event


class Board:
    """An agent's task logic with real workers, on a board that grants ``job.limit_bytes``."""

    def __init__(self, job: Job, directory: Path, data: Path) -> None:
        self.job = job
        self.blob = task_of(job)
        self.said: list[Message] = []
        self.workers: list[WorkerProcess] = []
        self.chosen: list[Chosen] = []
        self._log = directory / "worker.log"
        self.governor = Governor(
            directory / "governor.json",
            memory_limit_bytes=job.limit_bytes,
            usable=lambda: 1 << 33,
            threads=1,
            policy="fresh",
            engine=job.engine,
        )
        clock = time.monotonic
        self.tasks = Assignment(
            "porch",
            AgentConfig(engine=job.engine, data=data_of(job, data)),
            directory,
            governor=self.governor,
            inbox=Inbox(directory / "inbox", 10**9),
            outbox=Outbox(directory / "outbox", max_bytes=10**9, max_age_s=1e6, wall_clock=time.time),
            start_worker=self._start,
            pauses=Pauses(Guards(GuardLimits(), lambda: (), clock), clock),
            send=self.said.append,
            clock=clock,
        )

    def _start(self, run: str, limits: TaskLimits) -> WorkerProcess:
        self.workers.append(Overheard(run, limits, "random-jobs", self._log, chosen=self.chosen))
        return self.workers[-1]

    def run(self) -> Record:
        """Offer the task as a coordinator would: again and again, until it is done or declined."""
        record = Record(self.job)
        while len(record.tries) < MOST_TRIES:
            record.tries.append(self._try(len(record.tries)))
            if record.tries[-1].outcome != TaskState.OVER_BUDGET:
                break
        return record

    def _try(self, step: int) -> Try:
        job, began = self.job, time.monotonic()
        manifest = Manifest(hashlib.sha256(self.blob).hexdigest(), len(self.blob), DEFAULT_CHUNK_BYTES)
        spec = msgspec.to_builtins(job.spec)
        self.tasks.offered(TaskOffer("r", step, job.stage, 600.0, manifest, spec, "0" * 64, job.steps, job.keep))
        while self.tasks.state is not AssignmentState.IDLE:
            self._serve(manifest)
            self.tasks.tick()
            assert time.monotonic() - began < TASK_S, f"job {job} does not end: {self.said[-3:]}"
            time.sleep(0.005)
        first, chosen = (self.chosen[0], self.chosen[-1]) if self.chosen else (None, None)
        status = [message for message in self.said if isinstance(message, TaskStatus)][-1]
        worker = self.workers[-1] if self.workers else None
        target = worker.limits.target_bytes if worker else 0
        self.said.clear()
        self.workers.clear()
        self.chosen.clear()
        predicted = chosen.peak_bytes if chosen else 0
        return Try(
            way=chosen.index if chosen else -1,
            ways=chosen.ways if chosen else 0,
            first=str(first.way) if first else "",
            last=str(chosen.way) if chosen else "",
            predicted_bytes=predicted,
            target_bytes=target,
            fits=0 < predicted * MARGIN <= target,
            outcome=str(status.state),
            reason=status.reason,
            levers=chosen.way.levers if chosen else NO_LEVERS,
            rss_bytes=worker.peak_rss_bytes if worker else 0,
            data_bytes=worker.peak_data_bytes if worker else 0,
            peak_bytes=status.peak_rss_bytes,
            hard=worker.kind if worker else "",
            seconds=round(time.monotonic() - began, 2),
        )

    def _serve(self, manifest: Manifest) -> None:
        """Every chunk that was asked for."""
        for request in [message for message in self.said if isinstance(message, ChunkRequest)]:
            self.said.remove(request)
            for index in range(request.start, min(request.start + request.count, manifest.count)):
                data = self.blob[index * manifest.chunk_size : (index + 1) * manifest.chunk_size]
                self.tasks.chunk(pack_chunk(manifest.sha256, index, data))
