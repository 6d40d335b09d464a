"""The reference itself: its gradients are what central differences say."""

from __future__ import annotations

import numpy as np
import pytest
from checks import masks, numbers, safe_batch
from reference import activation, objective
from reference_network import Reference

from sparse_engine import Layer, Model, Op

MODELS = {
    "blocks": Model(
        (2, 6, 5),
        (
            Layer("a", Op.CONV, ("input",), 2, 4, (3, 2), (2, 1), (1, 1), bias=True),
            Layer("norm", Op.BATCH_NORM, ("a",), 4, 4),
            Layer("act", Op.HARD_SWISH, ("norm",), gain=1.5),
            Layer("b", Op.CONV, ("act",), 4, 4, (3, 3), (1, 1), (1, 1), groups=2, weight_norm="active"),
            Layer("sum", Op.ADD, ("b", "act")),
            Layer("join", Op.CONCAT, ("sum", "a")),
            Layer("mean", Op.AVG_POOL, ("join",), kernel=(2, 2), stride=(1, 1), padding=(1, 1)),
            Layer("head", Op.LINEAR, ("mean",), 8 * 4 * 7, 3, bias=True),
        ),
    ),
    "signal": Model(
        (3, 9),
        (
            Layer("a", Op.CONV, ("input",), 3, 6, (3,), (2,), (1,), groups=3, weight_norm="all", bias=True),
            Layer("leaky", Op.LEAKY_RELU, ("a",)),
            Layer("drop", Op.DROPOUT, ("leaky",), rate=0.5),
            Layer("max", Op.MAX_POOL, ("drop",), kernel=(2,), stride=(2,), padding=(1,)),
            Layer("relu6", Op.RELU6, ("max",), gain=0.7),
            Layer("flat", Op.FLATTEN, ("relu6",)),
            Layer("head", Op.LINEAR, ("flat",), 18, 3),
        ),
    ),
}


@pytest.mark.parametrize("name", ["cross_entropy", "squared_error", "flow"])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_gradients_are_central_differences(model, name):
    rng = np.random.default_rng(3)
    params, mask = numbers(model, rng), masks(model, rng, 0.7)
    factors = rng.choice([0.5, 1.0, 2.0], (3, 6, 1, 5))
    reference = Reference(model, params, mask, {"drop": factors})
    x, y = safe_batch(reference, 1, 3)
    found = reference.gradients(x, y, name)
    share = 1 / len(y) if name == "cross_entropy" else 1.0

    def loss() -> float:
        return share * objective(name, reference.forward(x, training=True), y)[0]

    for key, value in reference.velocity.items():
        number = reference.params[key].reshape(-1)
        free = np.flatnonzero(reference.mask.get(key, np.ones(value.shape, np.bool_)).reshape(-1))
        for at in rng.choice(free, min(len(free), 6), replace=False):
            kept, step = number[at], 1e-6
            number[at] = kept + step
            above = loss()
            number[at] = kept - step
            below = loss()
            number[at] = kept
            assert found[key].reshape(-1)[at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7)


def test_known_values():
    x = np.array([-4.0, -1.0, 0.5, 7.0])
    assert activation("hard_swish", x) == pytest.approx([0, -1 / 3, 0.5 * 3.5 / 6, 7])
    assert activation("leaky_relu", x) == pytest.approx([-0.04, -0.01, 0.5, 7])
    assert activation("relu6", x) == pytest.approx([0, 0, 0.5, 6])
    loss, gradient = objective("cross_entropy", np.zeros((1, 4)), np.array([2]))
    assert loss == pytest.approx(np.log(4))
    assert gradient == pytest.approx(np.array([[0.25, 0.25, -0.75, 0.25]]))
