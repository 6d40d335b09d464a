"""SynFlow against its closed form, and through a short run over the codec."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem
from tests.fedcore.methods.wired import run_wired_step
from tests.fedcore.training.engines import new_engine
from tests.fedcore.training.graphs import norm, residual_graph
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import FedAvg, FedAvgSettings
from tinyfleet.fedcore.methods.synflow import SynFlow, SynFlowSettings, flow_scores, linearised
from tinyfleet.fedcore.models.graph import INPUT, STATISTICS, Graph, Node, Op
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.mask import active_counts, mask_digest


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def synflow(rounds=3, **settings):
    return SynFlow(SynFlowSettings(**settings), problem(rounds))


def two_layers() -> Graph:
    nodes = (
        Node("flat", Op.FLATTEN, (INPUT,)),
        Node("hidden", Op.LINEAR, ("flat",), 3, 2, bias=True),
        norm("hidden_norm", "hidden", 2),
        Node("hidden_act", Op.RELU6, ("hidden_norm",)),
        Node("output", Op.LINEAR, ("hidden_act",), 2, 2, bias=True),
    )
    return Graph("two_layers", (1, 1, 3), 2, nodes, (("hidden",),))


W1 = np.array([[0.5, -1.0, 0.25], [2.0, 0.0, -9.0]], np.float32)
W2 = np.array([[1.0, -0.5], [0.2, 0.7]], np.float32)


def two_layer_params(factor=1.0):
    params = two_layers().initial_params(0)
    params |= {"hidden.weight": W1 * np.float32(factor), "output.weight": W2 * np.float32(factor)}
    return params | {"hidden.bias": np.full(2, -7.0, np.float32), "output.bias": np.full(2, 5.0, np.float32)}


def test_scores_are_the_closed_form_whatever_norms_biases_and_ceilings_do(engine):
    """R = 1' |W2| |W1| 1, so |w_ij| dR/d|w_ij| = |W1_ij| sum_k |W2_ki|; units sum to 6 and more."""
    scores = flow_scores(engine, two_layers(), two_layer_params(), {})
    expected = np.abs(W1) * np.abs(W2).sum(0)[:, None]
    np.testing.assert_allclose(scores["hidden.weight"], expected, rtol=1e-6)


def test_masked_weights_score_nothing(engine):
    mask = {"hidden.weight": np.array([[True, False, True], [True, True, False]])}
    scores = flow_scores(engine, two_layers(), two_layer_params(), mask)["hidden.weight"]
    np.testing.assert_allclose(scores, np.abs(W1) * mask["hidden.weight"] * np.abs(W2).sum(0)[:, None], rtol=1e-6)


def test_what_overflows_is_scaled_down(engine):
    scores = flow_scores(engine, two_layers(), two_layer_params(1e30), {})["hidden.weight"].astype(np.float64)
    expected = np.abs(W1) * np.abs(W2).sum(0)[:, None]
    np.testing.assert_allclose(scores / scores.sum(), expected / expected.sum(), rtol=1e-5)


def test_what_no_scale_helps_is_an_error(engine):
    params = two_layer_params()
    params["hidden.weight"] = np.full((2, 3), np.inf, np.float32)
    with pytest.raises(ConfigError, match="smaller weights"):
        flow_scores(engine, two_layers(), params, {})


@pytest.mark.parametrize("graph", [two_layers(), residual_graph()], ids=["chain", "residual"])
def test_a_layer_s_scores_sum_to_the_flow_that_passes_it(engine, graph):
    """Conservation (theorem 1): R of the layers that all flow passes, less or as much in a branch."""
    params = graph.initial_params(0)
    scores = flow_scores(engine, graph, params, {})
    linear = linearised(graph)
    absolute = {name: np.abs(params[name]) for name in linear.params}
    engine.load(linear, {n: v if n.endswith("weight") else v * 0 for n, v in absolute.items()}, {})
    flow = engine.predict(np.ones((1, *graph.input_shape), np.float32)).sum()
    sums = {name: float(values.sum()) for name, values in scores.items()}
    assert sums["hidden.weight"] == pytest.approx(flow, rel=1e-4)
    if "depthwise.weight" in sums:
        assert sums["depthwise.weight"] == pytest.approx(sums["wide.weight"], rel=1e-4)
        assert sums["depthwise.weight"] + sums["shortcut.weight"] == pytest.approx(flow, rel=1e-4)


def test_linearised_graphs_keep_the_weights_and_nothing_that_normalises():
    for graph in (
        residual_graph(),
        build(ModelSettings("small_cnn", (1, 8, 8), 3, {"width": 4, "norm": "nsconv"})),
    ):
        linear = linearised(graph)
        assert linear.maskable == graph.maskable
        assert linear.shapes[linear.output] == graph.shapes[graph.output]
        assert not {node.op for node in linear.nodes} & {Op.BATCH_NORM, Op.RELU, Op.RELU6}
        assert {name.rsplit(".", 1)[1] for name in linear.params} <= {"weight", "bias"}


@pytest.mark.parametrize("wanted", [0.002, 0.05, 0.3])
def test_the_density_is_exact_and_the_flow_is_not_cut(engine, wanted):
    method = synflow(density=wanted, iterations=20, pretrained=False)
    state = method.initial_state(engine, dataset(48, 1))
    total = sum(active.size for active in state.mask.values())
    assert sum(active_counts(state.mask).values()) == int(wanted * total)
    assert min(active_counts(state.mask).values()) >= 1
    scores = flow_scores(engine, method.problem.graph, state.params, state.mask)
    assert min(float(values.sum()) for values in scores.values()) > 0, "a path from input to output is left"


def test_the_mask_needs_no_data(engine):
    masks = [
        mask_digest(synflow(iterations=5, pretrained=False).initial_state(engine, dataset(48, seed)).mask)
        for seed in (1, 2)
    ]
    assert masks[0] == masks[1]


def test_only_the_mask_touches_the_real_model(engine):
    state = synflow(iterations=5).initial_state(engine, dataset(48, 1))
    parent = FedAvg(FedAvgSettings(), problem()).initial_state(engine, dataset(48, 1))
    statistics = 0
    for name, spec in problem().graph.params.items():
        active = state.mask.get(name, np.ones(spec.shape, np.bool_))
        assert np.array_equal(state.params[name], np.where(active, parent.params[name], 0)), name
        statistics += spec.role in STATISTICS
    assert statistics == 10


def test_a_run_over_the_codec_keeps_the_mask(engine):
    method = synflow(density=0.1, iterations=10)
    first = state = method.initial_state(engine, dataset(96, 1))
    losses = []
    while not method.finished(state):
        state, _ = run_wired_step(method, engine, state, devices())
        losses.append(state.meta["metrics"]["loss"])
        assert mask_digest(state.mask) == mask_digest(first.mask)
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()
    assert losses[-1] < 0.8 * losses[0], "it learns"
