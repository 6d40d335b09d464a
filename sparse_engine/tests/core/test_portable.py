"""Every instruction set and every architecture trains to the same numbers, which were once written down."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from sparse_engine import Layer, Model, Network, Op, StepOptions, _core

# Losses of three steps, and the sum of all numbers' squares then. Sums in another order differ a little.
LOSSES = (1.776606155, 1.735620351, 1.676903454)
SQUARES = 37.06516572


def model() -> Model:
    """All that a small residual network has, once."""
    conv = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    return Model(
        (3, 9, 9),
        (
            Layer("stem", Op.CONV, ("input",), 3, 8, **conv),
            Layer("norm", Op.BATCH_NORM, ("stem",), 8, 8),
            Layer("act", Op.RELU6, ("norm",)),
            Layer("deep", Op.CONV, ("act",), 8, 8, groups=8, bias=True, **conv),
            Layer("swish", Op.HARD_SWISH, ("deep",)),
            Layer("sum", Op.ADD, ("swish", "act")),
            Layer("pool", Op.MAX_POOL, ("sum",), kernel=(2, 2), stride=(2, 2), padding=(0, 0)),
            Layer("down", Op.CONV, ("pool",), 8, 12, (1, 1), (2, 2), (0, 0)),
            Layer("mean", Op.GLOBAL_AVG_POOL, ("down",)),
            Layer("head", Op.LINEAR, ("mean",), 12, 5, bias=True),
        ),
    )


def train() -> tuple[list[float], float]:
    """Three steps on numbers that every machine makes alike."""
    network = Network(model())
    numbers, masks = {}, {}
    for layer in model().layers:
        if layer.op in (Op.CONV, Op.LINEAR):
            count = int(np.prod(layer.weight_shape))
            wave = np.sin(np.arange(count) * 0.7 + layer.out_channels) * 0.4
            numbers[f"{layer.name}.weight"] = wave.reshape(layer.weight_shape).astype(np.float32)
            masks[f"{layer.name}.weight"] = (np.arange(count) * 7 % 10 < 6).reshape(layer.weight_shape)
            numbers[f"{layer.name}.bias"] = np.linspace(-0.1, 0.1, layer.out_channels, dtype=np.float32)
        elif layer.op is Op.BATCH_NORM:
            for name, value in (("weight", 1.0), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)):
                numbers[f"{layer.name}.{name}"] = np.full(layer.out_channels, value, np.float32)
    network.set(numbers, masks)
    x = np.cos(np.arange(16 * 3 * 81) * 0.37).reshape(16, 3, 9, 9).astype(np.float32)
    y = np.arange(16, dtype=np.int64) % 5
    step = StepOptions(learning_rate=0.05, momentum=0.9, weight_decay=1e-3, micro_batch=6)
    losses = [network.train_step(x, y, step) for _ in range(3)]
    return losses, float(sum(np.square(values, dtype=np.float64).sum() for values in network.get().values()))


def test_training_gives_the_numbers_of_every_other_machine():
    losses, squares = train()

    assert losses == pytest.approx(LOSSES, rel=1e-6)
    assert squares == pytest.approx(SQUARES, rel=1e-6)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"] if platform.machine() == "x86_64" else ["neon"])
def test_each_instruction_set_gives_them(isa):
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "SPARSE_ENGINE_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot run here" in ran.stderr:
        pytest.skip(f"this machine has no {isa}")

    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["isa"] == isa
    assert found["losses"] == pytest.approx(LOSSES, rel=1e-6)
    assert found["squares"] == pytest.approx(SQUARES, rel=1e-6)


if __name__ == "__main__":
    result = train()
    print(json.dumps({"isa": _core.isa, "losses": result[0], "squares": result[1]}))  # noqa: T201
