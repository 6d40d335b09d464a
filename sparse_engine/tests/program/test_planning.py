"""A plan is what then happens."""

from __future__ import annotations

import numpy as np
import pytest
from checks import batch, masks, numbers

from sparse_engine import Layer, Model, ModelError, Network, Op, StepOptions
from sparse_engine.planning import Plan


def model() -> Model:
    layers = [
        Layer("stem", Op.CONV, ("input",), 3, 16, (3, 3), (1, 1), (1, 1)),
        Layer("norm", Op.BATCH_NORM, ("stem",), out_channels=16),
        Layer("act", Op.RELU, ("norm",)),
        Layer("wide", Op.CONV, ("act",), 16, 32, (3, 3), (2, 2), (1, 1)),
        Layer("short", Op.CONV, ("act",), 16, 32, (1, 1), (2, 2), (0, 0)),
        Layer("sum", Op.ADD, ("wide", "short")),
        Layer("last", Op.RELU, ("sum",)),
        Layer("pool", Op.GLOBAL_AVG_POOL, ("last",)),
        Layer("head", Op.LINEAR, ("pool",), 32, 4, bias=True),
    ]
    return Model((3, 16, 16), tuple(layers))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize(
    "step",
    [
        StepOptions(0.1),
        StepOptions(0.1, recompute=1),
        StepOptions(0.1, recompute=2),
        StepOptions(0.1, keep=0.3, cache="fp16"),
    ],
)
@pytest.mark.parametrize("samples", [7, 16])
def test_the_arena_is_as_planned(threads, density, step, samples):
    rng, own = np.random.default_rng(0), model()
    mask = masks(own, rng, density)
    active = {name.removesuffix(".weight"): int(np.count_nonzero(values)) for name, values in mask.items()}
    told = Plan(own, active, threads)
    network = Network(own, threads)
    network.set(numbers(own, rng), mask)
    network.train_step(*batch(own, rng, samples), step)
    page = 4096  # the system's
    assert 0 <= network.arena_bytes - told.arena_bytes(samples, step) < page


def test_a_plan_follows_what_it_is_asked():
    own = model()
    sparse, dense = Plan(own, {"wide": 100, "short": 20}), Plan(own, {})
    assert sparse.arena_bytes(32, StepOptions(0.1)) > 1.5 * sparse.arena_bytes(16, StepOptions(0.1))
    assert sparse.evaluation_bytes(16) < sparse.arena_bytes(16, StepOptions(0.1))
    assert 0 < sparse.weight_bytes() < dense.weight_bytes()
    with pytest.raises(ModelError, match="'wide' has 4608 weights"):
        Plan(own, {"wide": 5000})
