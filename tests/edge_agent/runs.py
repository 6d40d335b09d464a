"""One small real run: data, spec, state and tasks, as a coordinator would make them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker.commands import MaskMissing, OverBudget, TaskCommand, TaskDone, TaskFailed
from tinyfleet.edge_agent.worker.process import Event, WorkerProcess
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings, WireSettings

SAMPLES = 80
_ENDS = ("done", "declined", "failed", "needs_mask", "unfit", "over_budget", "exit")
# The activations of one whole batch of such a task need some 230 MB more than those of one sample.
SHAPE, BATCH = (3, 96, 96), 128


def spec_of(
    method: str = "fedavg",
    *,
    batch: int = 16,
    shape: tuple[int, ...] = (1, 12, 12),
    local_epochs: int = 1,
    **settings: Any,
) -> RunSpec:
    return RunSpec(
        seed=3,
        method={"name": method, "pretrained": False, **settings},
        model=ModelSettings(name="small_cnn", input_shape=shape, classes=3),
        training=TrainingSettings(rounds=2, local_epochs=local_epochs, batch=batch, learning_rate=0.05),
        wire=WireSettings(precision="fp32"),
    )


def write_data(path: Path, *, samples: int = SAMPLES, shape: tuple[int, ...] = (1, 12, 12)) -> str:
    """Three kinds of bright stripes; returns the data source's name."""
    rng = np.random.default_rng(0)
    y = np.arange(samples) % 3
    x = rng.integers(0, 60, (samples, *shape), dtype=np.uint8)
    for kind in range(3):
        x[y == kind, :, kind * 4 : kind * 4 + 3, :] += 120
    np.savez(path, x=x, y=y.astype(np.int64))
    return f"arrays:{path}"


def data_settings(source: str) -> dict[str, Any]:
    """The device has everything: no public and no test part."""
    return {"source": source, "public_fraction": 0.0, "test_fraction": 0.0}


def first_state(spec: RunSpec) -> Payload:
    """Untrained: no engine is needed."""
    rng = np.random.default_rng(1)
    shape = spec.model.input_shape
    public = Dataset(rng.integers(0, 255, (20, *shape), dtype=np.uint8), np.arange(20) % 3, 3)
    return create(spec.method, problem_of(spec)).initial_state(None, public)  # type: ignore[arg-type]


def task_blob(spec: RunSpec, state: Payload, *, send_mask: bool = True) -> bytes:
    task = create(spec.method, problem_of(spec)).configure_round(state)
    return encode(task, precision="fp32", send_mask=send_mask)


def command(tmp_path: Path, spec: RunSpec, blob: bytes, source: str) -> TaskCommand:
    """The worker's command for one task."""
    (tmp_path / "task").write_bytes(blob)
    return TaskCommand(
        device="porch",
        blob=str(tmp_path / "task"),
        result=str(tmp_path / "result"),
        masks=str(tmp_path / "masks"),
        spec=msgspec.to_builtins(spec),
        data=data_settings(source),
    )


def events_until(child: Child, *last: str) -> list[dict[str, Any]]:
    """What a worker writes, as far as an event of this name, or one that ends the task or the worker."""
    events, deadline = [], time.monotonic() + PATIENCE_S
    while not events or events[-1]["event"] not in (*last, *_ENDS):
        event = child.receive(max(0.01, deadline - time.monotonic()))
        assert event is not None, f"nothing after {events}"
        events.append(event)
    return events


def every_event(worker: WorkerProcess) -> Iterator[Event]:
    """Events as they come, until the task has ended."""
    deadline, events = time.monotonic() + PATIENCE_S, []
    while time.monotonic() < deadline:
        event = worker.poll(time.monotonic())
        if event is None:
            time.sleep(0.005)
            continue
        events.append(event)
        yield event
        if isinstance(event, TaskDone | OverBudget | TaskFailed | MaskMissing):
            return
    raise AssertionError(f"nothing but {events}")


def events_of(worker: WorkerProcess) -> list[Event]:
    """The same, all of them."""
    return list(every_event(worker))
