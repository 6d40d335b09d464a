"""The memory plan is kept to: what the plan says before the first step is what the process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checks import STEP, batch, masks, numbers

from sparse_engine import Layer, Model, Network, Op, StepOptions

PAGE = 4096
# A sanitizer's and an emulator's own memory is the process's, too.
WATCHED = "san" in os.environ.get("LD_PRELOAD", "") or "QEMU_CPU" in os.environ
"""A sanitizer's own memory hides the engine's."""


def model(channels: int, side: int, blocks: int = 4) -> Model:
    """A stem and residual blocks of one convolution each."""

    def block(name: str, source: str, ins: int) -> list[Layer]:
        return [
            Layer(f"{name}_conv", Op.CONV, (source,), ins, channels, (3, 3), (1, 1), (1, 1)),
            Layer(f"{name}_norm", Op.BATCH_NORM, (f"{name}_conv",), channels, channels),
        ]

    layers = [*block("stem", "input", 3), Layer("0", Op.RELU, ("stem_norm",))]
    for i in range(blocks):
        layers += block(f"b{i}", str(i), channels)
        layers += [
            Layer(f"b{i}_sum", Op.ADD, (f"b{i}_norm", str(i))),
            Layer(str(i + 1), Op.RELU, (f"b{i}_sum",)),
        ]
    pool = Layer("pool", Op.GLOBAL_AVG_POOL, (str(blocks),))
    return Model((3, side, side), (*layers, pool, Layer("head", Op.LINEAR, ("pool",), channels, 10)))


def loaded(model: Model, threads: int) -> Network:
    rng = np.random.default_rng(0)
    network = Network(model, threads)
    network.set(numbers(model, rng), masks(model, rng, 0.05))
    return network


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("recompute", [0, 1, 2])
def test_the_arena_is_what_the_programs_need(recompute, threads):
    """The largest program's bytes in whole pages; a smaller batch takes no more."""
    small = model(4, 6)
    network = loaded(small, threads)
    assert network.arena_bytes == 0
    for samples in (5, 16, 8):
        x, y = batch(small, np.random.default_rng(1), samples)
        network.train_step(x, y, replace(STEP, recompute=recompute))
    programs = list(network._programs.values())
    for compiled in programs:
        # scratch and the space behind the last tensor come on top of the planned buffers
        assert compiled.memory.floor <= compiled.memory.floats <= compiled.program.bytes // 4
    assert network.arena_bytes == max(-(-compiled.program.bytes // PAGE) * PAGE for compiled in programs)


def test_recomputing_takes_less():
    taken = []
    for recompute in (0, 2):
        network = loaded(model(8, 8), 1)
        x, y = batch(network.model, np.random.default_rng(1), 16)
        network.train_step(x, y, StepOptions(0.1, recompute=recompute))
        taken.append(network.arena_bytes)
    assert taken[1] < 0.9 * taken[0]


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(threads: int, recompute: int) -> dict[str, int]:
    """What training takes beyond what is there once the numbers are; run in a process of its own."""
    network = loaded(model(48, 24), threads)
    x, y = batch(network.model, np.random.default_rng(1), 32)
    step = replace(STEP, recompute=recompute)
    weights = sum(3 * value.nbytes for value in network.get().values())  # values, momentum and gradients at most
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is there now
    before = _status("VmRSS:")
    for _ in range(2):
        network.train_step(x, y, step)
    return {"growth": _status("VmHWM:") - before, "arena": network.arena_bytes, "weights": weights}


@pytest.mark.skipif(
    WATCHED or not os.access("/proc/self/clear_refs", os.W_OK), reason="resident memory is not to be had"
)
@pytest.mark.parametrize(("threads", "recompute"), [(1, 0), (2, 2)])
def test_a_step_takes_what_is_planned(threads, recompute):
    command = [sys.executable, __file__, str(threads), str(recompute)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found = json.loads(told.stdout)
    assert found["growth"] <= 1.03 * (found["arena"] + found["weights"])
    assert found["growth"] >= 0.9 * found["arena"], "most of the arena is there for nothing"


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
