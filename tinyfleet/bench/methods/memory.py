"""What one device's training step takes, measured: peak resident memory of a fresh process.

``python -m tinyfleet.bench.methods.memory`` reads ``{"spec": ..., "kind": "lightest" | "heaviest"}`` from its
input and writes one line of JSON. Both kinds are tasks of the training stage, the lightest and the heaviest
by the method's own account: an ordinary round and, where the method has them, one that adjusts the mask.
The data is random and the weights are untrained: neither has a share in memory.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from tinyfleet.fedcore.child import ask
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.errors import DataError, TinyfleetError
from tinyfleet.fedcore.methods.method import Control, Method
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.rss import peak_bytes, reset_peak, resident_bytes
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.training.engine import Engine

Kind = Literal["lightest", "heaviest"]

BATCHES = 2
DEVELOPMENT = 4  # samples; in the step before training every candidate sees them, and none of it is measured
MOST_STEPS = 50  # before training begins
TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """Resident memory in MB (10^6 bytes): before the step, model loaded, and its peak."""

    baseline_mb: float
    peak_mb: float


class _Request(msgspec.Struct):
    spec: RunSpec
    kind: Kind


def measure(spec: RunSpec, kind: Kind) -> MeasuredStep:
    """Measure in a child. Raises ``DataError`` where that fails, with what the child said."""
    request = {"spec": spec, "kind": kind}
    return ask("tinyfleet.bench.methods.memory", request, MeasuredStep, "measuring memory", TIMEOUT_S)


def measured_spec(spec: RunSpec) -> RunSpec:
    """``spec`` without what has no share in a step's memory: equal ones need measuring once."""
    training = msgspec.structs.replace(spec.training, pretrain_epochs=0, local_epochs=1)
    return RunSpec(method=spec.method, model=spec.model, training=training, wire=spec.wire)


def measure_here(spec: RunSpec, kind: Kind) -> MeasuredStep:
    """Measure in this process, which must be fresh: whatever it freed before would hide what the step takes."""
    from tinyfleet.fedcore.training.allocator import return_freed_memory
    from tinyfleet.fedcore.training.registry import REFERENCE
    from tinyfleet.fedcore.training.registry import create as create_engine

    spec = measured_spec(spec)
    engine = create_engine(REFERENCE.name)
    return_freed_memory()  # the engine keeps it; the peak is to be what is in use
    method = create(spec.method, problem_of(spec))
    data = _device(spec)
    task = _task(method, _first_training_state(method, engine, data), kind, len(data.train) + DEVELOPMENT)
    # What libraries load and set up in a first step of this kind is no part of a method's memory.
    engine.load(method.problem.graph, task.params, task.mask)
    x = np.zeros((2, *spec.model.input_shape), np.float32)
    engine.train_step(x, np.zeros(2, np.int64), method.step_settings(1e-6, Control()))
    engine.load(method.problem.graph, task.params, task.mask)
    gc.collect()
    reset_peak()
    baseline = resident_bytes()
    method.run(task, engine, data, Control())
    return MeasuredStep(baseline / 1e6, peak_bytes() / 1e6)


def _first_training_state(method: Method, engine: Engine, data: DeviceData) -> Payload:
    """The state at the beginning of the training stage; the steps before it run on one device."""
    state = method.initial_state(engine, data.train)
    for _ in range(MOST_STEPS):
        if state.meta["stage"] == "train":
            return state
        fold = method.begin_fold(state)
        method.fold(fold, method.run(method.configure_round(state), engine, data, Control()))
        state = method.next_state(state, fold)
    raise DataError(f"method {method.name} did not reach its training stage within {MOST_STEPS} steps")


def _task(method: Method, state: Payload, kind: Kind, samples: int) -> Payload:
    """The training task with the least or the most analytic memory, FLOPs second, over all rounds."""

    def at(round_index: int) -> Payload:
        return method.configure_round(Payload(state.meta | {"round": round_index}, state.params, state.mask))

    def weight(round_index: int) -> tuple[float, float]:
        cost = method.cost(at(round_index), samples, DEVELOPMENT)
        return cost.memory, cost.flops

    rounds = range(method.problem.training.rounds)
    return at(min(rounds, key=weight) if kind == "lightest" else max(rounds, key=weight))


def _device(spec: RunSpec) -> DeviceData:
    """Two batches of random images in all."""
    rng, shape = np.random.default_rng(0), spec.model.input_shape
    count = max(BATCHES * spec.training.batch, 2 * DEVELOPMENT)
    x = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % spec.model.classes
    data = Dataset(x, y, spec.model.classes)
    order = np.arange(count)
    return DeviceData("measured", data.take(order[DEVELOPMENT:]), data.take(order[:DEVELOPMENT]))


def main() -> int:
    """One request, one answer."""
    request: Any = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    try:
        answer = measure_here(request.spec, request.kind)
    except (TinyfleetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
