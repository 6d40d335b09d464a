"""Every engine against a plain torch.nn model with torch's own optimiser, and the seam's invariants."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.fedcore.training.engines import new_engine  # noqa: E402
from tests.fedcore.training.graphs import batch, masked, one_dimensional_graph, residual_graph  # noqa: E402
from tests.fedcore.training.reference import Reference  # noqa: E402
from tinyfleet.fedcore.sparsity.mask import active_counts, largest  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.levers import Levers  # noqa: E402


def loaded(name, graph, mask=None, seed=0):
    engine = new_engine(name)
    params = graph.initial_params(seed)
    engine.load(graph, params, mask or {})
    return engine, params


@pytest.mark.parametrize("graph", [residual_graph(), one_dimensional_graph()], ids=lambda g: g.name)
def test_dense_training_follows_torch_nn_and_torch_sgd(engine_name, graph):
    engine, params = loaded(engine_name, graph)
    model = Reference(graph, params)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    settings = StepSettings(learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(5):
        x, y = batch(graph, 12, seed=step)
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x).double()), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert engine.train_step(x, y, settings) == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, value in engine.params().items():
        np.testing.assert_allclose(value, model.numpy()[name], rtol=2e-3, atol=2e-5, err_msg=name)
    model.eval()
    x, y = batch(graph, 31, seed=9)
    logits = model(torch.from_numpy(x).double()).detach()
    np.testing.assert_allclose(engine.predict(x, batch=8), logits.numpy(), rtol=1e-2, atol=1e-3)
    evaluation = engine.evaluate(x, y, batch=10)
    assert evaluation.samples == 31
    assert evaluation.correct == int((logits.argmax(1).numpy() == y).sum())
    expected = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)))
    assert evaluation.loss == pytest.approx(expected, rel=1e-3)


def test_masked_weights_and_their_momentum_stay_exactly_zero(engine_name):
    graph = residual_graph()
    mask = masked(graph, 0.2)
    engine, _ = loaded(engine_name, graph, mask)
    for step in range(4):
        engine.train_step(*batch(graph, 8, step), StepSettings(0.1, momentum=0.9, weight_decay=0.01))
    params = engine.params()
    for name, active in mask.items():
        assert not params[name][~active].any()
        assert np.count_nonzero(params[name]) == active_counts(mask)[name]


def test_micro_batches_equal_the_large_batch_where_no_layer_couples_samples(engine_name):
    graph = residual_graph(norms=False)
    whole, _ = loaded(engine_name, graph)
    parts, _ = loaded(engine_name, graph)
    for step in range(3):
        x, y = batch(graph, 22, step)
        a = whole.train_step(x, y, StepSettings(0.05, momentum=0.9))
        b = parts.train_step(x, y, StepSettings(0.05, momentum=0.9, levers=Levers(5)))
        assert a == pytest.approx(b, rel=1e-5)
    for name, value in whole.params().items():
        np.testing.assert_allclose(value, parts.params()[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_equal_inputs_give_equal_bits(engine_name):
    graph = residual_graph()
    engines = [loaded(engine_name, graph, masked(graph, 0.3))[0] for _ in range(2)]
    for engine in engines:
        for step in range(3):
            engine.train_step(*batch(graph, 16, step), StepSettings(0.1, 0.9, 1e-4))
    first, second = (engine.params() for engine in engines)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_updating_statistics_moves_nothing_else(engine_name):
    graph = residual_graph()
    engine, params = loaded(engine_name, graph)
    x, _ = batch(graph, 64)
    model = Reference(graph, params).train()
    for _ in range(3):
        engine.update_statistics(x)
        model(torch.from_numpy(x).double())
    after = engine.params()
    for name in graph.params:
        if name in graph.statistics:
            np.testing.assert_allclose(after[name], model.numpy()[name], rtol=1e-3, atol=1e-4)
        else:
            assert np.array_equal(after[name], params[name])


def reference_top(graph, params, mask, x, y, name, count):
    """The same set from a dense gradient."""
    masked_params = {k: np.where(mask[k], v, 0) if k in mask else v for k, v in params.items()}
    model = Reference(graph, masked_params).train()
    torch.nn.functional.cross_entropy(model(torch.from_numpy(x).double()), torch.from_numpy(y)).backward()
    gradient = model.layers[name.removesuffix(".weight")].weight.grad.numpy().reshape(-1)
    pruned = np.flatnonzero(~mask[name].reshape(-1))
    return largest(gradient[pruned], pruned, count), gradient


@pytest.mark.parametrize("graph", [residual_graph(), one_dimensional_graph()], ids=lambda g: g.name)
@pytest.mark.parametrize("seed", range(5))
def test_top_gradients_are_the_dense_gradients_largest_pruned_entries(engine_name, graph, seed):
    mask = masked(graph, 0.3, seed)
    engine, params = loaded(engine_name, graph, mask, seed)
    x, y = batch(graph, 16, seed)
    counts = dict.fromkeys(graph.maskable, 4 + seed)
    before = engine.params()
    found = engine.top_gradients(x, y, counts)
    for name, vector in found.items():
        positions, gradient = reference_top(graph, params, mask, x, y, name, counts[name])
        assert np.array_equal(vector.positions, positions), "absolute positions of pruned weights, sorted"
        np.testing.assert_allclose(vector.values, gradient[positions], rtol=1e-3, atol=1e-6)
    after = engine.params()
    assert all(np.array_equal(before[name], after[name]) for name in before), "looking must not train"


def test_top_gradients_with_micro_batches_are_those_of_the_whole_batch(engine_name):
    graph = residual_graph(norms=False)
    mask = masked(graph, 0.3)
    engine, _ = loaded(engine_name, graph, mask)
    x, y = batch(graph, 16)
    counts = dict.fromkeys(graph.maskable, 6)
    whole, parts = (
        engine.top_gradients(x, y, counts),
        engine.top_gradients(x, y, counts, StepSettings(0.0, levers=Levers(3))),
    )
    for name in counts:
        assert np.array_equal(whole[name].positions, parts[name].positions)
        np.testing.assert_allclose(whole[name].values, parts[name].values, rtol=1e-4)


def test_a_count_of_zero_and_a_layer_without_mask_give_nothing(engine_name):
    graph = residual_graph()
    engine, _ = loaded(engine_name, graph)
    found = engine.top_gradients(*batch(graph, 8), {"hidden.weight": 5, "wide.weight": 0})
    assert all(len(vector.positions) == 0 for vector in found.values())
    assert engine.top_gradients(*batch(graph, 8), {}) == {}
    assert len(engine.top_gradients(*batch(graph, 8), {"wide.weight": 0})["wide.weight"].positions) == 0


def test_loading_leaves_no_trace_of_what_was_trained_before(engine_name):
    graph = residual_graph()
    engine, params = loaded(engine_name, graph, masked(graph, 0.3))
    settings = StepSettings(0.1, 0.9, 1e-4)
    results = []
    for seed in (0, 1, 0):
        engine.load(graph, params, masked(graph, 0.3, seed))
        engine.train_step(*batch(graph, 12), settings)
        results.append((engine.train_step(*batch(graph, 12, 1), settings), engine.params()))
    (first, before), _, (again, after) = results
    assert first == again
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("samples", [1, 2, 3, 16, 31, 33])
def test_a_samples_logits_depend_on_no_other(engine_name, samples):
    graph = residual_graph()
    engine, _ = loaded(engine_name, graph, masked(graph, 0.3))
    x, y = batch(graph, samples)
    alone = np.concatenate([engine.predict(x[i : i + 1]) for i in range(samples)])
    for size in (1, 5, 256):
        np.testing.assert_allclose(engine.predict(x, size), alone, rtol=1e-4, atol=1e-5)
        assert engine.evaluate(x, y, size).correct == int((alone.argmax(1) == y).sum())
    assert engine.predict(x[:0]).shape == (0, graph.classes)


def test_arrays_that_do_not_fit_the_model_are_refused(engine_name):
    if engine_name == "torch":
        pytest.skip("torch's own errors")
    from tinyfleet.fedcore.errors import ConfigError

    graph = residual_graph()
    engine, params = loaded(engine_name, graph)
    with pytest.raises(ConfigError, match=r"wide\.weight.*use engine 'torch'"):
        engine.load(graph, params | {"wide.weight": params["wide.weight"][:3]}, {})
    with pytest.raises(ConfigError, match="holds no model"):
        new_engine(engine_name).params()
