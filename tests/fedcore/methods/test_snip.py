"""SNIP against its definition, and through a short run over the codec."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem
from tests.fedcore.methods.wired import run_wired_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.methods.snip import Snip, SnipSettings, sensitivities
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.mask import active_counts, density, mask_digest


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def snip(rounds=3, **settings):
    return Snip(SnipSettings(**settings), problem(rounds))


def linear_graph() -> Graph:
    nodes = (
        Node("flat", Op.FLATTEN, (INPUT,)),
        Node("hidden", Op.LINEAR, ("flat",), 3, 2, bias=True),
        Node("output", Op.LINEAR, ("hidden",), 2, 2, bias=True),
    )
    return Graph("two_layers", (1, 1, 3), 2, nodes, (("hidden",),))


def test_scores_are_the_hand_computed_sensitivities(engine):
    graph = linear_graph()
    w1 = np.array([[0.5, -1.0, 0.25], [2.0, 0.1, -0.3]], np.float32)
    w2 = np.array([[1.0, -0.5], [0.2, 0.7]], np.float32)
    zeros = np.zeros(2, np.float32)
    params = {"hidden.weight": w1, "hidden.bias": zeros, "output.weight": w2, "output.bias": zeros}
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((n, 1, 1, 3)).astype(np.float32), rng.integers(0, 2, n)) for n in (4, 3)]
    slope = np.zeros_like(w1, np.float64)
    for x, y in data:
        flat = x.reshape(len(y), 3).astype(np.float64)
        logits = flat @ w1.T @ w2.T
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        slope += ((p - np.eye(2)[y]) @ w2).T @ flat
    scores = sensitivities(engine, graph, params, {}, data)
    assert scores.keys() == {"hidden.weight"}
    np.testing.assert_allclose(scores["hidden.weight"], np.abs(w1 * slope), rtol=1e-4)


def test_signs_cancel_over_batches_before_the_absolute_value(engine):
    """Gradients are summed first: a batch and its mirror image leave less than either alone."""
    graph, x = linear_graph(), np.ones((1, 1, 1, 3), np.float32)
    params = graph.initial_params(0)
    one = sensitivities(engine, graph, params, {}, [(x, np.array([0]))])["hidden.weight"]
    other = sensitivities(engine, graph, params, {}, [(x, np.array([1]))])["hidden.weight"]
    both = sensitivities(engine, graph, params, {}, [(x, np.array([0])), (x, np.array([1]))])["hidden.weight"]
    np.testing.assert_allclose(both, np.abs(one - other), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["nsconv", "nsconv-all"])
def test_normalised_convolutions_score_what_the_mask_multiplies(engine, norm):
    """The normalised weight does not know its filter's scale: neither may the scores."""
    graph = build(ModelSettings("small_cnn", (1, 8, 8), 3, {"width": 4, "norm": norm}))
    data = dataset(12, 0)
    params = graph.initial_params(0)
    name = "conv2.weight"
    scores = sensitivities(engine, graph, params, {}, [(data.x, data.y)])
    assert scores.keys() == set(graph.maskable)
    scaled = {n: v * 3.0 if n == name else v for n, v in params.items()}
    again = sensitivities(engine, graph, scaled, {}, [(data.x, data.y)])
    np.testing.assert_allclose(again[name], scores[name], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("wanted", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("iterations", [1, 5])
def test_the_density_is_exact_and_no_layer_is_empty(engine, wanted, iterations):
    method = snip(density=wanted, iterations=iterations, pretrained=False)
    state = method.initial_state(engine, dataset(48, 1))
    total = sum(active.size for active in state.mask.values())
    assert sum(active_counts(state.mask).values()) == int(wanted * total)
    assert state.mask.keys() == set(method.problem.graph.maskable)
    assert min(active_counts(state.mask).values()) >= 1
    for name, active in state.mask.items():
        assert not state.params[name][~active].any()


def test_only_the_given_public_batches_count(engine):
    public = dataset(96, 1)
    few = snip(batches=1, pretrained=False)
    first = few.initial_state(engine, public)
    order = np.random.default_rng([few.problem.seed, 4]).permutation(len(public))
    changed = public.x.copy()
    changed[order[16:]] = changed[order[16:][::-1]]  # the same pixels: normalisation stays
    second = few.initial_state(engine, Dataset(changed, public.y, 3))
    assert mask_digest(first.mask) == mask_digest(second.mask)
    more = snip(batches=6, pretrained=False).initial_state(engine, public)
    assert mask_digest(first.mask) != mask_digest(more.mask)


def test_without_public_data_the_error_names_the_remedy(engine):
    with pytest.raises(DataError, match="public_fraction"):
        snip(pretrained=False).initial_state(engine, dataset(96, 1).take(np.arange(0)))


def test_a_run_over_the_codec_keeps_the_mask(engine):
    method = snip(density=0.1)
    first = state = method.initial_state(engine, dataset(96, 1))
    losses = []
    while not method.finished(state):
        state, _ = run_wired_step(method, engine, state, devices())
        losses.append(state.meta["metrics"]["loss"])
        assert mask_digest(state.mask) == mask_digest(first.mask)
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()
    assert density(state.mask) == pytest.approx(0.1, rel=0.01)
    assert losses[-1] < 0.8 * losses[0], "it learns"
