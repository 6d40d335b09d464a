"""Dropout draws by the numbers that were loaded and a counter: alike in both engines, other values in each pass."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from tests.fedcore.training.graphs import conv
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.first_pass import first_pass
from tinyfleet.fedcore.training.registry import available, create
from tinyfleet.fedcore.training.torch.dropout import CountedDropout, seed_of

GRAPH = Graph(
    "dropped", (2, 6, 5), 3,
    (
        conv("stem", INPUT, 2, 6, bias=True), Node("first", Op.DROPOUT, ("stem",), rate=0.25),
        conv("body", "first", 6, 4, bias=True), Node("flat", Op.FLATTEN, ("body",)),
        Node("second", Op.DROPOUT, ("flat",), rate=0.5), Node("output", Op.LINEAR, ("second",), 120, 3, bias=True),
    ), (("body",),),
)  # fmt: skip
engines = pytest.mark.parametrize("engine", [name for name in ("torch", "native") if name in available()])


def data(count):
    rng = np.random.default_rng(3)
    return rng.standard_normal((count, 2, 6, 5)).astype(np.float32), np.arange(count) % 3


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(6, 5, 40, 9), (16, 700), (7, 3, 400)])
def test_a_share_is_zero_and_the_others_make_up_for_it(shape, rate):
    x = torch.ones(shape, requires_grad=True)
    y = CountedDropout.apply(x, rate, 17)
    kept = (y != 0).double()
    assert abs(kept.mean() - (1 - rate)) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5
    torch.testing.assert_close(y[y != 0], torch.full((int(kept.sum()),), 1 / (1 - rate)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())  # the backward pass draws the same again
    assert not torch.equal(CountedDropout.apply(x, rate, 18), y)


def test_passes_layers_and_numbers_have_draws_of_their_own():
    params = GRAPH.initial_params(0)
    assert first_pass(GRAPH, params) != first_pass(GRAPH, GRAPH.initial_params(1))
    assert len({seed_of(passed, layer) for passed in range(30) for layer in range(30)}) == 900
    assert seed_of(2**64 - 1, 5) < 2**64


@engines
@pytest.mark.parametrize("samples", [1, 12, 16])
def test_the_same_numbers_are_trained_alike_whatever_was_before(engine, samples):
    x, y = data(samples)
    made = create(engine)
    params = GRAPH.initial_params(0)
    losses = []
    for _ in range(2):
        made.load(GRAPH, params, {})
        losses.append([made.train_step(x, y, StepSettings(0.0)) for _ in range(3)])
        made.update_statistics(x)
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 3  # nothing is learnt: each pass drops other values


@engines
def test_nothing_is_dropped_in_use(engine):
    x, _ = data(12)
    made = create(engine)
    made.load(GRAPH, GRAPH.initial_params(0), {})
    first = made.predict(x)
    np.testing.assert_array_equal(first, made.predict(x))
