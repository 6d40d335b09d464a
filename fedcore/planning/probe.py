"""What training steps really take: one configuration a fresh process, peak resident memory and seconds.

``python -m tinyfleet.fedcore.planning.probe`` reads one ``Probe`` as JSON from its input and answers with one line.
"""

from __future__ import annotations

import statistics
import sys
import time

import msgspec

from tinyfleet.fedcore.child import ask
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers
from tinyfleet.fedcore.training.registry import REFERENCE

TIMEOUT_S = 900.0
WARM_UP = 2  # samples of the step that loads libraries and starts threads


class Probe(msgspec.Struct, frozen=True):
    """One configuration of a training step under a random ERK mask."""

    model: ModelSettings
    batch: int
    levers: Levers = NO_LEVERS
    pruned_norms: bool = False
    momentum: float = 0.0
    density: float = 0.05
    threads: int = 1
    steps: int = 3
    engine: str = REFERENCE.name

    @property
    def settings(self) -> StepSettings:
        """Those of its steps."""
        return StepSettings(0.01, momentum=self.momentum, levers=self.levers, pruned_norm=self.pruned_norms)


class Probed(msgspec.Struct, frozen=True):
    """What it took. Bytes are resident in the whole process."""

    loaded_bytes: int  # engine and model, before the first full step
    peak_bytes: int
    engine_bytes: int  # before the model
    step_seconds: float  # median


def probe(request: Probe) -> Probed:
    """Measure in a child process. Raises ``DataError`` with what it said where it fails."""
    return ask("tinyfleet.fedcore.planning.probe", request, Probed, f"measuring {request.model.name}", TIMEOUT_S)


def probe_here(request: Probe) -> Probed:
    """Measure in this process, which must be fresh: whatever it freed before would hide what a step takes."""
    import numpy as np

    from tinyfleet.fedcore.models.registry import build
    from tinyfleet.fedcore.rss import peak_bytes, reset_peak, resident_bytes
    from tinyfleet.fedcore.sparsity.allocation import erk_mask
    from tinyfleet.fedcore.training.allocator import return_freed_memory
    from tinyfleet.fedcore.training.registry import create

    graph = build(request.model)
    engine = create(request.engine, request.threads)
    return_freed_memory()  # in every configuration: the peak is to be what is in use
    rng = np.random.default_rng(0)
    mask = erk_mask(graph.maskable_shapes, request.density, rng)
    engine_bytes = resident_bytes()
    engine.load(graph, graph.initial_params(0), mask)
    x = rng.standard_normal((request.batch, *graph.input_shape), dtype=np.float32)
    y = rng.integers(0, graph.classes, request.batch)
    engine.train_step(x[:WARM_UP], y[:WARM_UP], request.settings)
    loaded = resident_bytes()
    reset_peak()
    seconds = []
    for _ in range(request.steps):
        started = time.perf_counter()
        engine.train_step(x, y, request.settings)
        seconds.append(time.perf_counter() - started)
    return Probed(loaded, peak_bytes(), engine_bytes, statistics.median(seconds))


if __name__ == "__main__":
    answer = probe_here(msgspec.json.decode(sys.stdin.buffer.read(), type=Probe))
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
