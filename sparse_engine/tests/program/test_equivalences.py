"""What may not change a result: micro-batches, threads, instruction sets, company in a batch, history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checks import STEP, assert_close, batch, masks, numbers
from structures import MODELS, STEM, add, conv, norm, whole

from sparse_engine import Layer, Model, Network, Op, StepOptions, _core

PLAIN = whole(
    conv("a", "input", 2, 8, bias=True),
    Layer("h", Op.HARD_SWISH, ("a",)),
    conv("b", "h", 8, 8, weight_norm="active"),
    add("sum", "b", "h"),
    conv("deep", "sum", 8, 8, stride=2, groups=8),
)
"""Without batch norm, and smooth."""
NORMED = MODELS["inverted residual"]


def trained(model: Model, x, y, step: StepOptions, threads: int = 1, density: float = 0.5, steps: int = 2) -> dict:
    """Losses and numbers after some steps from the same start."""
    rng = np.random.default_rng(7)
    network = Network(model, threads)
    network.set(numbers(model, rng), masks(model, rng, density))
    losses = [network.train_step(x, y, step) for _ in range(steps)]
    return {**network.get(), "losses": np.array(losses), "predictions": network.predict(x)}


def assert_alike(found: dict, wanted: dict, what: str) -> None:
    for name, value in wanted.items():
        assert_close(np.asarray(found[name]), np.asarray(value), f"{name} {what}")


def fill(network: Network, value: float) -> None:
    """All of the arena, whatever it was used for."""
    size = network.arena_bytes // 4 // 16 * 16 - 256  # but for a program's slack
    program = _core.Program(network._arena, _core.Pool(1), 1)
    program.begin(np.full(size, value, np.float32), program.tensor(1, 1, size, 0, True))


@pytest.mark.parametrize("samples", [1, 3, 6])
@pytest.mark.parametrize("name", MODELS)
def test_what_was_in_memory_before_changes_nothing(name, samples):
    """Rows that are no whole vectors are computed with what lies behind them, which need not be finite."""
    model, found = MODELS[name], []
    for value in (0.0, np.nan):
        rng = np.random.default_rng(1)
        network = Network(model)
        network.set(numbers(model, rng), masks(model, rng, 0.3))
        x, y = batch(model, rng, samples)
        layers = [layer.name for layer in model.layers if layer.op in (Op.CONV, Op.LINEAR)]
        network.predict(np.tile(x, (8, 1, 1, 1))[:40])  # an arena with room
        for _ in range(2):
            fill(network, value)
            network.train_step(x, y, STEP)
        fill(network, value)
        gradients = {f"gradient of {layer}": of for layer, _, of in network.gradients(x, y, layers)}
        fill(network, value)
        found.append({**network.get(), **gradients, "predictions": network.predict(x)})
    for what, wanted in found[0].items():
        assert np.array_equal(found[1][what], wanted), what


@pytest.mark.parametrize(("samples", "micro_batch"), [(12, 4), (12, 1), (13, 5), (33, 16), (7, 100)])
def test_micro_batches_add_up_to_the_batch(samples, micro_batch):
    x, y = batch(PLAIN, np.random.default_rng(1), samples)
    wanted = trained(PLAIN, x, y, STEP)
    assert_alike(trained(PLAIN, x, y, replace(STEP, micro_batch=micro_batch)), wanted, "with micro-batches")


def test_statistics_of_micro_batches_move_as_far():
    """Of equal micro-batches, as of the whole: 1 - (1 - 0.1)^(1 / k) each time."""
    x, y = batch(NORMED, np.random.default_rng(1), 4)
    wanted = trained(NORMED, x, y, StepOptions(0.0), steps=1)
    found = trained(NORMED, np.tile(x, (3, 1, 1, 1)), np.tile(y, 3), StepOptions(0.0, micro_batch=4), steps=1)
    for name in wanted:
        if "running_mean" in name:
            assert_close(found[name], wanted[name], name)


def test_update_statistics_moves_nothing_else():
    x, y = batch(NORMED, np.random.default_rng(1), 6)
    rng = np.random.default_rng(7)
    network = Network(NORMED)
    network.set(numbers(NORMED, rng), masks(NORMED, rng, 0.5))
    before = network.get()
    network.update_statistics(x)
    wanted = trained(NORMED, x, y, StepOptions(0.0), steps=1)
    for name, value in network.get().items():
        np.testing.assert_array_equal(value, wanted[name] if "running" in name else before[name], name)
    assert any((network.get()[name] != before[name]).any() for name in before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("model", [PLAIN, NORMED], ids=["plain", "normed"])
def test_the_same_threads_give_the_same_bits(model, threads):
    x, y = batch(model, np.random.default_rng(2), 24)
    first, second = (trained(model, x, y, STEP, threads) for _ in range(2))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, name)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("samples", [1, 5, 32])
def test_any_number_of_threads_gives_the_same_result(samples, threads):
    for model in (PLAIN, NORMED):
        if samples > 1 or model is PLAIN:
            x, y = batch(model, np.random.default_rng(3), samples)
            assert_alike(trained(model, x, y, STEP, threads), trained(model, x, y, STEP), f"by {threads} threads")


def test_what_a_network_did_before_leaves_no_trace():
    """A network whose numbers are set again trains bit for bit as a fresh one, even after NaN."""
    x, y = batch(NORMED, np.random.default_rng(4), 8)
    rng = np.random.default_rng(7)
    params, mask = numbers(NORMED, rng), masks(NORMED, rng, 0.5)
    wanted = trained(NORMED, x, y, STEP)
    network = Network(NORMED)
    network.set(params, mask)
    for bad in (10 * x + 3, np.full_like(x, np.nan), np.full_like(x, np.inf)):
        network.train_step(bad, y, STEP)
    network.set(params, mask)
    losses = [network.train_step(x, y, STEP) for _ in range(2)]
    found = {**network.get(), "losses": np.array(losses), "predictions": network.predict(x)}
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("model", [PLAIN, NORMED], ids=["plain", "normed"])
def test_predictions_depend_on_no_other_sample(model):
    rng = np.random.default_rng(5)
    network = Network(model)
    network.set(numbers(model, rng), masks(model, rng, 0.5))
    x, _ = batch(model, rng, 16)
    wanted = network.predict(x)
    for size in (1, 2, 3, 7, 8):
        parts = [network.predict(x[first : first + size]) for first in range(0, 16, size)]
        assert_close(np.concatenate(parts), wanted, f"predictions by {size}")
    poisoned = x.copy()
    poisoned[3] = np.nan
    clean = np.arange(16) != 3
    np.testing.assert_array_equal(network.predict(poisoned)[clean], wanted[clean])


def test_far_means_cost_no_precision():
    """Batch statistics of values whose mean is a thousand times their deviation, from the first batch on."""
    model = whole(norm("n", "input", 2), *(replace(layer, inputs=("n",)) for layer in STEM[:1]))
    rng = np.random.default_rng(6)
    params = numbers(model, rng)
    x, _ = batch(model, rng, 16)
    far = (x + 1000).astype(np.float32)
    network = Network(model)
    network.set(params)
    network.update_statistics(far)
    found = network.get()
    exact = far.astype(np.float64)
    wanted = 0.9 * params["n.running_var"] + 0.1 * exact.var(axis=(0, 2, 3), ddof=1)
    assert_close(found["n.running_var"], wanted, "variance")
    wanted = 0.9 * params["n.running_mean"] + 0.1 * exact.mean(axis=(0, 2, 3))
    assert_close(found["n.running_mean"], wanted, "mean")


def report(out: Path) -> None:
    """What another instruction set is to compute as well; run in a process of its own."""
    found = {"isa": np.array(_core.isa)}
    for number, model in enumerate((PLAIN, NORMED)):
        for samples in (3, 16):
            x, y = batch(model, np.random.default_rng(samples), samples)
            for name, value in trained(model, x, y, STEP, 2).items():
                found[f"{number} {samples} {name}"] = value
    np.savez(out, **found)


def isas() -> list[str]:
    """That this processor can run: an unknown one's error tells them."""
    env = {**os.environ, "SPARSE_ENGINE_ISA": "none such"}
    command = [sys.executable, "-c", "import sparse_engine"]
    told = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return told.stderr.strip().splitlines()[-1].rsplit("choose of ", 1)[-1].split(", ")


def test_every_instruction_set_gives_the_same_result(tmp_path):
    known = isas()
    assert _core.isa in known
    assert len(known) == len(set(known)) <= 3, json.dumps(known)
    results = {}
    for isa in known:
        env = {**os.environ, "SPARSE_ENGINE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
        out = tmp_path / f"{isa}.npz"
        subprocess.run([sys.executable, __file__, str(out)], env=env, check=True)
        with np.load(out) as found:
            results[isa] = dict(found)
        assert str(results[isa].pop("isa")) == isa
    for isa in known:
        assert_alike(results[isa], results[known[-1]], f"with {isa}")


if __name__ == "__main__":
    report(Path(sys.argv[1]))
