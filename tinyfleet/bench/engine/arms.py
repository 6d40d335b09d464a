"""The two arms as their parent sees them: fresh processes that take one step whenever they are told to."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tinyfleet.bench.engine.cells import EngineCell
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.native.model import model_of

INPUT_SHAPE, CLASSES = (3, 32, 32), 10
TIMEOUT_S = 300.0  # of a step; the first includes all imports


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to train densely with torch: where channels lie in memory, and what malloc does with large tensors."""

    layout: str
    malloc: str

    def __str__(self) -> str:
        return f"{self.layout}, {self.malloc} malloc"


VARIANTS = tuple(
    Variant(layout, malloc) for layout in ("channels_last", "contiguous") for malloc in ("tuned", "default")
)


class Arm:
    """One child process. Raises ``DataError`` with what went wrong where it ends or takes too long."""

    def __init__(self, name: str, module: str, threads: int, request: Mapping[str, Any]) -> None:
        self._name = name
        started = time.perf_counter()
        self._child = Child(module, env=_environment(threads))
        try:
            self._child.send(request)
            self._receive()
        except BaseException:
            self._child.kill()
            raise
        self.first_step_s = time.perf_counter() - started
        """From its start to the end of its first step: import, model, step."""
        self.peak_bytes = 0
        """Resident at most, since the model was loaded."""

    def step(self) -> float:
        """Take a step; the seconds that it took, in the child."""
        self._child.send({})
        answer = self._receive()
        self.peak_bytes = answer["peak"]
        return float(answer["seconds"])

    def stop(self) -> None:
        """End the process."""
        self._child.stop()

    def _receive(self) -> dict[str, Any]:
        answer = self._child.receive(TIMEOUT_S)
        if answer is None:
            raise DataError(f"{self._name} took more than {TIMEOUT_S:g} s for a step")
        if answer["event"] == "exit":
            raise DataError(f"{self._name} ended with code {answer['code']}; its stderr says why")
        return answer

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def native_arm(cell: EngineCell) -> Arm:
    """The sparse engine with the cell's masks and memory levers."""
    graph = build(settings_of(cell))
    request = {
        "model": dataclasses.asdict(model_of(graph)),
        "maskable": [name.removesuffix(".weight") for name in graph.maskable_shapes],
        "density": cell.density,
        "threads": cell.threads,
        "batch": cell.batch,
        "levers": dataclasses.asdict(cell.levers),
        "pruned_norm": cell.pruned_norm,
    }
    return Arm("the native engine", "tinyfleet.bench.engine.native_arm", cell.threads, request)


def torch_arm(cell: EngineCell, variant: Variant) -> Arm:
    """Dense torch, the whole batch at once."""
    request = {
        "settings": msgspec.to_builtins(settings_of(cell)),
        "threads": cell.threads,
        "batch": cell.batch,
        "layout": variant.layout,
        "malloc": variant.malloc,
    }
    return Arm(f"torch ({variant})", "tinyfleet.bench.engine.torch_arm", cell.threads, request)


def settings_of(cell: EngineCell) -> ModelSettings:
    """The cell's model."""
    return ModelSettings(cell.model, INPUT_SHAPE, CLASSES)


def fastest(cell: EngineCell, steps: int, tried: Sequence[Variant]) -> Variant:
    """The variant whose fastest step is the shortest, each tried in a process of its own."""

    def trials() -> Iterator[tuple[float, Variant]]:
        for variant in tried:
            with torch_arm(cell, variant) as arm:
                arm.step()  # the second warms up, too
                yield min(arm.step() for _ in range(steps)), variant

    if len(tried) == 1:
        return tried[0]
    return min(trials(), key=lambda trial: trial[0])[1]


def _environment(threads: int) -> dict[str, str]:
    chosen_by_caller = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    kept = {name: value for name, value in os.environ.items() if name not in chosen_by_caller}
    return kept | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
