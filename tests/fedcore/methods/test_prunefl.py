"""PruneFL: its stop rule on hand-made numbers, what devices upload, and a run over the codec."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fedcore.methods.problems import dataset, devices, problem
from tests.fedcore.methods.wired import run_wired_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.accounting import gradient_flops
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import AggregationError, DataError, ResultError
from tinyfleet.fedcore.methods.method import Control, device_seed, normalization_of
from tinyfleet.fedcore.methods.parts.local import all_samples
from tinyfleet.fedcore.methods.parts.reconfiguration import mean_squares, packed, reconfigured, worthwhile
from tinyfleet.fedcore.methods.prunefl import PruneFl, PruneFlSettings
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.sparsity.mask import active_counts, mask_digest


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def prunefl(rounds=5, **settings):
    return PruneFl(PruneFlSettings(**({"density": 0.1, "interval": 2} | settings)), problem(rounds))


# -- the stop rule -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        # g^2 / t: a 8, 4, 0.5 (t = 1), b 5, 1.5 (t = 2). Falling: 8, 5, 4, 1.5, 0.5.
        # c = 1: Gamma after 8 is 8 / 2 = 4 <= 5; after 5, 18 / 4 = 4.5 > 4: stop at two.
        (1.0, 2),
        # c = 4: 8 / 5 <= 5; 18 / 7 = 2.57 <= 4; 22 / 8 = 2.75 > 1.5: stop at three.
        (4.0, 3),
        # c = 14: 22 / 18 = 1.22 <= 1.5; 25 / 20 = 1.25 > 0.5: stop at four.
        (14.0, 4),
        (1000.0, 5),
    ],
)
def test_weights_are_kept_while_they_raise_gain_per_time(rest, expected):
    squares = {"a": np.array([0.5, 8, 4], np.float32), "b": np.array([3, 10], np.float32)}
    safe = {"a": np.zeros(3, np.bool_), "b": np.zeros(2, np.bool_)}
    assert sum(worthwhile(squares, {"a": 1.0, "b": 2.0}, rest, safe).values()) == expected


def test_protected_weights_count_in_the_ratio_and_stay():
    """0.5 / 2 <= 8; 8.5 / 3 <= 5; 18.5 / 5 <= 4; 22.5 / 6 > 1.5: three join the protected one."""
    squares = {"a": np.array([0.5, 8, 4], np.float32), "b": np.array([3, 10], np.float32)}
    safe = {"a": np.array([True, False, False]), "b": np.zeros(2, np.bool_)}
    assert worthwhile(squares, {"a": 1.0, "b": 2.0}, 1.0, safe) == {"a": 3, "b": 1}


def linear_graph() -> Graph:
    """Two maskable layers of 2 FLOPs a weight, and 2 x 4 x 2 that are never masked."""
    nodes = (
        Node("flat", Op.FLATTEN, (INPUT,)),
        Node("one", Op.LINEAR, ("flat",), 3, 2),
        Node("two", Op.LINEAR, ("one",), 2, 4),
        Node("output", Op.LINEAR, ("two",), 4, 2),
    )
    return Graph("three_layers", (1, 1, 3), 2, nodes, (("two",), ("one",)))


def unprotected(graph, squares, density):
    return reconfigured(graph, squares, graph.initial_params(0), {}, density, 0.0)


def test_the_stop_rule_binds_before_the_density_and_leaves_each_layer_a_weight():
    """With c = 16, Gamma after the 8 of g^2 1 is 8 / (16 + 16): far above 0.001 / 2."""
    squares = {
        "one.weight": np.array([[0.1, 0.05, 0.1], [0.02, 0.1, 0.1]], np.float32) / 100,
        "two.weight": np.ones((4, 2), np.float32),
    }
    mask = unprotected(linear_graph(), squares, 1.0)
    assert active_counts(mask) == {"one.weight": 1, "two.weight": 8}, "one is kept for its layer's sake"
    assert mask["one.weight"][0, 0], "ties go to the lower position"
    squares["one.weight"] *= 1000  # four of 1, then 0.5: Gamma after 12 is 12 / 40 > 0.5 / 2
    assert active_counts(unprotected(linear_graph(), squares, 1.0)) == {"one.weight": 4, "two.weight": 8}
    assert sum(active_counts(unprotected(linear_graph(), squares, 0.5)).values()) == 7, "the density is a cap"


def test_slow_weights_need_larger_gradients():
    graph = problem().graph
    squares = {name: np.ones(graph.params[name].shape, np.float32) for name in graph.maskable}
    counts = active_counts(unprotected(graph, squares, 0.3))
    assert counts["conv3.weight"] == graph.params["conv3.weight"].size, "the 2x2 layer is the cheapest a weight"
    assert counts["conv0.weight"] == 1


def test_the_largest_weights_stay_whatever_their_gradients():
    graph = linear_graph()
    params = graph.initial_params(0)
    mask = {name: np.ones(graph.params[name].shape, np.bool_) for name in graph.maskable}
    mask["two.weight"].reshape(-1)[4:] = False
    squares = {name: 1.0 / (1e-3 + np.square(params[name])) for name in graph.maskable}  # the largest: the least
    new = reconfigured(graph, squares, params, mask, 0.5, 0.7)
    without = reconfigured(graph, squares, params, mask, 0.5, 0.0)
    # 10 are active, 7 may stay: 0.7 * 0.7 of each layer is protected, floor(2.94) and floor(1.96).
    for name, protected in (("one.weight", 2), ("two.weight", 1)):
        active = np.flatnonzero(mask[name])
        largest = active[np.argsort(-np.abs(params[name].reshape(-1)[active]))][:protected]
        assert new[name].reshape(-1)[largest].all()
        assert not without[name].reshape(-1)[largest].any(), "by their gradients they would go"
    assert sum(active_counts(new).values()) <= 7


# -- initial pruning -----------------------------------------------------------------------


def test_initial_pruning_needs_public_data_only_and_keeps_the_density(engine):
    method, public = prunefl(), dataset(96, 1)
    state = method.initial_state(engine, public)
    total = sum(active.size for active in state.mask.values())
    assert state.mask.keys() == set(method.problem.graph.maskable)
    assert sum(active_counts(state.mask).values()) <= int(0.1 * total)
    assert min(active_counts(state.mask).values()) >= 1
    for name, active in state.mask.items():
        assert not state.params[name][~active].any()
    again = method.initial_state(engine, public)
    assert all(state.params[name].tobytes() == again.params[name].tobytes() for name in state.params)
    other = method.initial_state(engine, Dataset(public.x, (public.y + 1) % 3, 3))
    assert mask_digest(other.mask) != mask_digest(state.mask)
    with pytest.raises(DataError, match="public_fraction"):
        method.initial_state(engine, public.take(np.arange(0)))


# -- what devices upload -------------------------------------------------------------------


def reconfiguration_round(method, engine):
    state = method.initial_state(engine, dataset(96, 1))
    for _ in range(2):
        state, _ = run_wired_step(method, engine, state, devices())
    return state


def test_squares_are_those_of_the_trained_model_s_batches(engine):
    method = prunefl(gradient_batches=2)
    state = reconfiguration_round(method, engine)
    task, data = method.configure_round(state), devices(1)[0]
    assert task.meta["reconfigure"] is True
    result = method.run(task, engine, data, Control())
    own = {name: result.params[name] for name in method.problem.graph.params}
    everything, expected = all_samples(data), dict.fromkeys(method.problem.graph.maskable, 0.0)
    order = device_seed(0, task, data.name).permutation(len(everything))
    engine.load(method.problem.graph, own, task.mask)
    for index in (order[:16], order[16:32]):
        x, y = normalization_of(task)(everything.x[index]), everything.y[index]
        for name, gradient in engine.dense_gradients(x, y, method.problem.graph.maskable).items():
            expected[name] = expected[name] + np.square(gradient) / 2
    for name, squares in expected.items():
        sent = result.params[f"{name}^2"] * result.meta["square_scales"][name]
        np.testing.assert_allclose(sent, squares.reshape(-1), rtol=1e-4, atol=1e-12)
        assert (squares[~task.mask[name]] > 0).any(), "pruned weights have gradients too"


def test_micro_batches_give_the_batch_gradient_s_square(engine):
    """Without batch norm a batch's gradient is the same in parts."""
    graph = linear_graph()
    engine.load(graph, graph.initial_params(0), {})
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 1, 1, 3)).astype(np.float32), rng.integers(0, 2, 7)
    whole, parts = mean_squares(engine, graph, [(x, y)]), mean_squares(engine, graph, [(x, y)], 3)
    for name in graph.maskable:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-4, atol=1e-9)


def test_squares_far_below_fp16_survive_the_wire():
    values = np.array([[3e-11, 1e-13], [0.0, 2.5e-11]], np.float32)
    flat, scales = packed({"a": values, "b": np.zeros((1, 2), np.float32)})
    arrived = flat["a^2"].astype(np.float16).astype(np.float32) * np.float32(scales["a"])
    np.testing.assert_allclose(arrived, values.reshape(-1), rtol=1e-3)
    assert flat["a^2"].max() <= 1.0
    assert not flat["b^2"].any()


def test_the_fold_is_the_weighted_mean_of_squares_and_decides_the_mask(engine):
    method = prunefl()
    state = reconfiguration_round(method, engine)
    fold, results = method.begin_fold(state), []
    for data in devices():
        results.append(method.run(method.configure_round(state), engine, data, Control()))
        method.fold(fold, results[-1])
    weights = [result.meta["samples"] for result in results]
    squares = {}
    for name in method.problem.graph.maskable:
        sent = [r.params[f"{name}^2"] * r.meta["square_scales"][name] for r in results]
        squares[name] = np.average(sent, axis=0, weights=weights).reshape(state.mask[name].shape)
        np.testing.assert_allclose(fold.squares()[name], squares[name], rtol=1e-3, atol=4e-9)
    after = method.finish_round(state, fold)
    expected = reconfigured(method.problem.graph, fold.squares(), fold.arrays.mean(), state.mask, 0.1, 0.7)
    assert mask_digest(after.mask) == mask_digest(expected)
    changed = 0
    for name, active in after.mask.items():
        mean = np.average([r.params[name] for r in results], axis=0, weights=weights)
        kept = active & state.mask[name]
        np.testing.assert_allclose(after.params[name][kept], mean[kept], rtol=1e-4, atol=1e-6)
        assert not after.params[name][~kept].any(), "what newly appears starts at 0"
        changed += int((active & ~state.mask[name]).sum())
    assert changed > 0
    assert after.params.keys() == method.problem.graph.params.keys()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.params.pop("conv3.weight^2"), "lacks the squared gradients of conv3"),
        (lambda r: r.meta.pop("square_scales"), "lacks the squared gradients"),
        (lambda r: r.meta["square_scales"].pop("conv1.weight"), "scale of conv1"),
        (lambda r: r.meta["square_scales"].update({"conv1.weight": -1.0}), "scale above 0"),
        (lambda r: r.meta["square_scales"].update({"conv1.weight": 1e300}), "not finite"),
        (lambda r: r.params.update({"conv1.weight^2": np.full(1296, -1.0, np.float32)}), "from 0 up"),
        (lambda r: r.params.update({"conv1.weight^2": np.full(1296, np.nan, np.float32)}), "from 0 up"),
        (lambda r: r.params.update({"conv1.weight^2": np.zeros(7, np.float32)}), "1296 numbers"),
        (lambda r: r.params.update({"stem.weight^2": np.zeros(72, np.float32)}), "wrong arrays"),
        (lambda r: r.params.pop("stem.weight"), "wrong arrays"),
        (lambda r: r.meta.update(loss=float("nan")), "loss"),
    ],
)
def test_a_bad_result_is_refused_whole(engine, damage, message):
    method = prunefl()
    state = reconfiguration_round(method, engine)
    task = method.configure_round(state)
    good = [method.run(task, engine, data, Control()) for data in devices(2)]
    bad = method.run(task, engine, devices(3)[2], Control())
    damage(bad)
    clean, disturbed = method.begin_fold(state), method.begin_fold(state)
    for fold in (clean, disturbed):
        method.fold(fold, good[0])
    with pytest.raises(ResultError, match=message):
        method.fold(disturbed, bad)
    assert disturbed.devices == 1
    for fold in (clean, disturbed):
        method.fold(fold, good[1])
    assert all(a.tobytes() == disturbed.squares()[n].tobytes() for n, a in clean.squares().items())
    a, b = method.finish_round(state, clean), method.finish_round(state, disturbed)
    assert mask_digest(a.mask) == mask_digest(b.mask)
    assert all(a.params[n].tobytes() == b.params[n].tobytes() for n in a.params)


def test_squares_are_refused_where_none_were_asked_for(engine):
    method = prunefl()
    state = method.initial_state(engine, dataset(96, 1))
    result = method.run(method.configure_round(state), engine, devices(1)[0], Control())
    result.params["conv3.weight^2"] = np.zeros(1296, np.float32)
    with pytest.raises(ResultError, match="wrong arrays"):
        method.fold(method.begin_fold(state), result)
    assert issubclass(AggregationError, ResultError)


# -- cost, and a whole run -----------------------------------------------------------------


def test_reconfiguration_rounds_cost_dense_gradients(engine):
    method = prunefl(gradient_batches=2)
    task = method.configure_round(method.initial_state(engine, dataset(96, 1)))
    graph = method.problem.graph
    plain = method.cost(task, 100, 10)
    task.meta["reconfigure"] = True
    dense = method.cost(task, 100, 10)
    assert dense.flops - plain.flops == gradient_flops(graph, task.mask, graph.maskable, 2 * 16)
    assert dense.memory - plain.memory == 8 * sum(graph.params[name].size for name in graph.maskable)
    assert method.cost(task, 20, 0).flops < dense.flops


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_run_over_the_codec_moves_the_mask_only_when_it_should(engine, precision):
    method = PruneFl(PruneFlSettings(density=0.1, interval=2), problem(5, precision=precision))
    state = method.initial_state(engine, dataset(96, 1))
    total = sum(active.size for active in state.mask.values())
    moved, losses = [], []
    while not method.finished(state):
        before = mask_digest(state.mask)
        round_index = state.meta["round"]
        state, _ = run_wired_step(method, engine, state, devices())
        losses.append(state.meta["metrics"]["loss"])
        if mask_digest(state.mask) != before:
            moved.append(round_index)
        count = sum(active_counts(state.mask).values())
        assert count <= int(0.1 * total)
        assert state.meta["metrics"]["density"] == pytest.approx(count / total)
        assert min(active_counts(state.mask).values()) >= 1
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()
    assert moved == [2, 4]
    assert losses[-1] < 0.3, "it learns: chance is ln 3 = 1.1"
    for name, active in state.mask.items():
        assert np.count_nonzero(state.params[name]) > 0.5 * active.sum(), "most of what is kept holds a weight"
