"""A method that needs no engine, and an engine process that answers at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tinyfleet.coordinator.run.engine_process import EngineAnswer, EngineFailed, Evaluated, Prepared
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.fedavg import Static, StaticSettings
from tinyfleet.fedcore.methods.method import Problem, device_seed
from tinyfleet.fedcore.models.graph import Graph, Node, Op
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import FleetSettings, RunSpec, TrainingSettings, WireSettings
from tinyfleet.fedcore.sparsity.mask import apply_mask

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
        samples = 10 + int(hashlib.sha256(device.encode()).hexdigest()[:2], 16) % 40  # it enrols with 50
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
        self.accuracies: dict[int, float] = {}  # of the states after some steps; of all others 0.9
        self.fail = ""

    def prepare(self, spec: RunSpec, target: Path) -> None:
        if self.fail:
            self.events.append(EngineFailed(self.fail))
            return
        target.write_bytes(codec.encode(create_toy(spec).initial_state(None, NO_DATA), precision="fp32"))
        self.events.append(Prepared(target))

    def evaluate(self, spec: RunSpec, step: int, state: Path, *, validate: bool = False) -> None:
        payload = codec.decode(state.read_bytes())
        self.evaluated.append(step)
        accuracy = self.accuracies.get(step, 0.9)
        validation = (1.0 - accuracy, accuracy) if validate else None
        self.events.append(Evaluated(step, 1.0 / (1 + int(payload.meta["step"])), accuracy, validation))  # type: ignore[arg-type]

    def poll(self) -> EngineAnswer | None:
        return self.events.pop(0) if self.events else None

    def close(self) -> None:
        self.events.clear()
