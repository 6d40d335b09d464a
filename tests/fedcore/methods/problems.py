"""A small problem with real gradients for the method tests: blobs of Gaussian classes on a small CNN."""

from __future__ import annotations

import numpy as np

from tests.fedcore.training.graphs import conv, norm
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.methods.method import Control, Problem
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.run_spec import TrainingSettings


def graph() -> Graph:
    """A stem, four maskable convolutions in four blocks, an output layer."""
    nodes = [conv("stem", INPUT, 1, 8), norm("stem_norm", "stem", 8), Node("stem_relu", Op.RELU, ("stem_norm",))]
    last, channels = "stem_relu", 8
    for index in range(4):
        name = f"conv{index}"
        nodes += [
            conv(name, last, channels, 12, stride=2 if index % 2 else 1),
            norm(f"{name}_norm", name, 12),
            Node(f"{name}_relu", Op.RELU, (f"{name}_norm",)),
        ]
        last, channels = f"{name}_relu", 12
    nodes += [
        Node("pool", Op.GLOBAL_AVG_POOL, (last,)),
        Node("output", Op.LINEAR, ("pool",), 12, 3, bias=True),
    ]
    blocks = tuple((f"conv{index}",) for index in reversed(range(4)))
    return Graph("four_blocks", (1, 8, 8), 3, tuple(nodes), blocks)


def dataset(size: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, size)
    patterns = np.random.default_rng(99).standard_normal((3, 1, 8, 8))
    x = patterns[y] + rng.standard_normal((size, 1, 8, 8))
    return Dataset(x.astype(np.float32), y, 3)


def problem(rounds: int = 6, seed: int = 0, precision: str = "fp16") -> Problem:
    training = TrainingSettings(
        rounds=rounds, batch=16, learning_rate=0.05, pretrain_epochs=2, pretrain_learning_rate=0.05
    )
    return Problem(graph(), training, seed, precision)


def devices(count: int = 3) -> list[DeviceData]:
    return [
        DeviceData(f"d{index}", dataset(40 + 10 * index, 10 + index), dataset(8 + index, 20 + index))
        for index in range(count)
    ]


def run_step(method, engine, state, data):
    """One step without a wire; returns the new state and the results."""
    task = method.configure_round(state)
    fold = method.begin_fold(state)
    results = [method.run(task, engine, device, Control()) for device in data]
    for result in results:
        method.fold(fold, result)
    return method.finish_round(state, fold), results
