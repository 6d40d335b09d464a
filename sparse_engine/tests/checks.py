"""Numbers for a model, and the engine held against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from reference_network import WEIGHTED, Reference

from sparse_engine import Model, Network, Op, StepOptions
from sparse_engine.network import EXACT
from sparse_engine.program.values import Saving

TOLERANCE = 1e-5  # of the largest absolute value of an array
MARGIN = 1e-3  # pre-activations stay that far from kinks, so that float32 does not choose another side
STEP = StepOptions(0.05, momentum=0.9, weight_decay=0.01, penalty=0.3)


def numbers(model: Model, rng: np.random.Generator) -> dict:
    """Parameters of every kind, none of them at a default; pre-activations keep about unit variance."""
    found = {}
    for layer in model.layers:
        if layer.op in WEIGHTED:
            fan_in = int(np.prod(layer.weight_shape[1:]))
            found[f"{layer.name}.weight"] = rng.normal(size=layer.weight_shape) / np.sqrt(max(fan_in, 1))
            if layer.bias:
                found[f"{layer.name}.bias"] = rng.normal(size=layer.out_channels)
            if layer.weight_norm:
                found[f"{layer.name}.gain"] = rng.uniform(0.5, 1.5, layer.out_channels)
        elif layer.op is Op.BATCH_NORM:
            size = layer.out_channels
            found[f"{layer.name}.weight"] = rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1], size)
            found[f"{layer.name}.bias"] = rng.normal(size=size)
            found[f"{layer.name}.running_mean"] = rng.normal(size=size)
            found[f"{layer.name}.running_var"] = rng.uniform(0.5, 2, size)
    return {name: value.astype(np.float32) for name, value in found.items()}


def masks(model: Model, rng: np.random.Generator, density: float) -> dict:
    """One filter of a layer is empty where there are two; but none in models with batch norm.

    There a constant channel is divided by sqrt(1e-5): what float32 rounds is magnified 316 times.
    """
    normed = any(layer.op is Op.BATCH_NORM for layer in model.layers)
    found = {}
    for layer in model.layers:
        if layer.op in WEIGHTED:
            mask = rng.random(layer.weight_shape) < density
            if normed:
                mask.reshape(len(mask), -1)[:, :3] = True
            elif layer.out_channels > 1 and density < 1:
                mask[rng.integers(layer.out_channels)] = False
            found[f"{layer.name}.weight"] = mask
    return found


def batch(model: Model, rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    classes = model.shapes()[model.layers[-1].name][0]
    x = rng.normal(size=(samples, *model.input_shape)).astype(np.float32)
    return x, rng.integers(0, classes, samples)


def assert_close(got, wanted, what: str, floor: float = 1e-3, tolerance: float = TOLERANCE) -> None:
    """``floor``: the least scale that the error is held against, for sums whose terms cancel."""
    assert got.shape == wanted.shape, f"{what}: {got.shape} is not {wanted.shape}"
    scale = max(float(np.abs(wanted).max(initial=0.0)), floor)
    error = float(np.abs(got - wanted).max(initial=0.0))
    assert error <= tolerance * scale, f"{what}: off by {error:.3g} at scale {scale:.3g}"


def pair(model: Model, seed: int, density: float = 1.0, threads: int = 1) -> tuple[Network, Reference]:
    """The same numbers in the engine and the reference."""
    rng = np.random.default_rng(seed)
    params, mask = numbers(model, rng), masks(model, rng, density)
    network = Network(model, threads)
    network.set(params, mask)
    return network, Reference(model, params, mask)


def safe_batch(
    reference: Reference, seed: int, samples: int, margin: float = MARGIN
) -> tuple[np.ndarray, np.ndarray]:
    """A batch away from all kinks in training mode; where chance gives none, hypothesis is told."""
    rng = np.random.default_rng(seed)
    for _ in range(200 if margin < MARGIN else 20):
        x, y = batch(reference.model, rng, samples)
        reference.forward(x, training=True)
        if reference.margin() > margin:
            return x, y
    return give_up()


def give_up() -> tuple[np.ndarray, np.ndarray]:
    from hypothesis import reject
    from hypothesis.control import currently_in_test_context

    if currently_in_test_context():
        reject()
    pytest.fail("no batch keeps away from the kinks: make the case smaller")


def check_predictions(network: Network, reference: Reference, x: np.ndarray) -> None:
    assert_close(network.predict(x), reference.forward(x), "predictions")


def check_gradients(
    network: Network,
    reference: Reference,
    x,
    y,
    objective: str = "cross_entropy",
    floor: float = 1e-3,
    saving: Saving = EXACT,
) -> None:
    """Dense gradients of every weight as it is used; an input's are seen by the layer before."""
    wanted = reference.gradients(x, y, objective)
    names = [layer.name for layer in reference.model.layers if layer.op in WEIGHTED]
    found = {
        name: gradient.copy()
        for name, first, gradient in network.gradients(x, y, names, objective=objective, saving=saving)
    }
    assert sorted(found) == sorted(names)
    largest = max(float(np.abs(wanted[f"used:{name}"]).max(initial=0.0)) for name in names)
    for name in names:
        assert_close(
            found[name], wanted[f"used:{name}"], f"{objective} gradient of {name}", floor * max(largest, 1.0)
        )


def check_steps(network: Network, reference: Reference, x, y, step: StepOptions = STEP, steps: int = 2) -> None:
    """Losses and all numbers, what they moved by above all."""
    marked = {name: np.flatnonzero(mask)[::2] for name, mask in reference.mask.items()}
    network.mark(marked)
    reference.marked = marked
    for count in range(1, steps + 1):
        before = {name: value.copy() for name, value in reference.params.items()}
        start = network.get()
        wanted = reference.train_step(x, y, step)
        logits = float(np.abs(reference.values[reference.model.layers[-1].name]).max())
        error = abs(network.train_step(x, y, step) - wanted)
        assert error <= TOLERANCE * max(abs(wanted), logits), f"loss {wanted:.6g}, step {count}: off by {error:.3g}"
        found = network.get()
        assert found.keys() == reference.params.keys()
        for name, value in reference.params.items():
            assert_close(found[name], value, f"{name} after step {count}")
            if name in reference.mask:
                assert not found[name][~reference.mask[name]].any(), f"{name}: pruned weights moved"
            # float32 itself rounds what is stored: that much of the difference is no error of the step's
            rounding = 4 * np.finfo(np.float32).eps * float(np.abs(value).max(initial=0.0)) / TOLERANCE
            moved = value - before[name]
            assert_close(found[name] - start[name], moved, f"{name}'s move in step {count}", rounding)
