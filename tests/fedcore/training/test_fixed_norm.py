"""Batch norm with its running statistics as constants: equal to evaluation mode, and nothing cached for it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fedcore.accounting import activation_bytes  # noqa: E402
from fedcore.models.graph import Role  # noqa: E402
from fedcore.models.registry import build  # noqa: E402
from fedcore.run_spec import ModelSettings  # noqa: E402
from fedcore.training.engine import StepSettings  # noqa: E402
from fedcore.training.torch_engine import TorchEngine  # noqa: E402
from fedcore.training.torch_forward import Mode, forward  # noqa: E402
from tests.fedcore.training.graphs import batch, masked, one_dimensional_graph, residual_graph  # noqa: E402

GRAPHS = {
    "residual": residual_graph(),
    "sensor": one_dimensional_graph(),
    "resnet8": build(ModelSettings("resnet8", (3, 16, 16), 4, {"width": 8})),
    "mobilenet": build(ModelSettings("mobilenet_v2", (3, 16, 16), 4, {"width": 0.25})),
}


def trained_params(graph):
    """Random parameters with statistics that are neither zero nor one."""
    params = graph.initial_params(0)
    rng = np.random.default_rng(1)
    for name, spec in graph.params.items():
        if spec.role is Role.RUNNING_VAR:
            params[name] = rng.uniform(0.5, 2.0, spec.shape).astype(np.float32)
        elif spec.role in (Role.RUNNING_MEAN, Role.NORM_SHIFT, Role.BIAS):
            params[name] = 0.3 * rng.standard_normal(spec.shape, dtype=np.float32)
        elif spec.role is Role.NORM_SCALE:
            params[name] = rng.uniform(0.5, 1.5, spec.shape).astype(np.float32)
    return params


@pytest.mark.parametrize("name", GRAPHS)
def test_a_step_is_that_of_evaluation_mode_batch_norm(name):
    """Loss and every updated array against autograd through torch's own batch norm in evaluation mode."""
    graph = GRAPHS[name]
    params, mask = trained_params(graph), masked(graph, 0.5)
    x, y = batch(graph, 6)
    engine = TorchEngine()
    engine.load(graph, params, mask)
    loss = engine.train_step(x, y, StepSettings(0.1, fixed_norm=True))
    after = engine.params()

    tensors = {n: torch.from_numpy(v).double() for n, v in params.items()}
    for n, active in mask.items():
        tensors[n] *= torch.from_numpy(active)
    trained = [n for n, s in graph.params.items() if s.role not in (Role.RUNNING_MEAN, Role.RUNNING_VAR)]
    for n in trained:
        tensors[n].requires_grad_()
    logits = forward(graph, tensors, torch.from_numpy(x).double(), Mode(training=False))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y))
    gradients = torch.autograd.grad(expected, [tensors[n] for n in trained])
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for n, gradient in zip(trained, gradients, strict=True):
        wanted = tensors[n].detach() - 0.1 * gradient
        if n in mask:
            wanted *= torch.from_numpy(mask[n])
        np.testing.assert_allclose(after[n], wanted.numpy(), rtol=2e-3, atol=2e-5, err_msg=n)
    statistics = [n for n in graph.params if n not in trained]
    assert all(np.array_equal(after[n], params[n]) for n in statistics)


def test_growth_gradients_see_the_same_constants():
    graph = GRAPHS["resnet8"]
    params, mask = trained_params(graph), masked(graph, 0.5)
    x, y = batch(graph, 6)
    engine = TorchEngine()
    engine.load(graph, params, mask)
    name = graph.maskable[1]
    count = int((~mask[name]).sum())
    found = engine.top_gradients(x, y, {name: count}, StepSettings(0.0, fixed_norm=True))[name]
    parts = engine.top_gradients(x, y, {name: count}, StepSettings(0.0, micro_batch=2, fixed_norm=True))[name]
    np.testing.assert_allclose(parts.values, found.values, rtol=1e-3, atol=1e-6)  # no batch in the statistics
    weights = {n: torch.from_numpy(v).double() for n, v in engine.params().items()}
    weights[name].requires_grad_()
    logits = forward(graph, weights, torch.from_numpy(x).double(), Mode(training=False))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y))
    (gradient,) = torch.autograd.grad(loss, [weights[name]])
    np.testing.assert_allclose(found.values, gradient.numpy().reshape(-1)[found.positions], rtol=2e-3, atol=1e-5)


def test_micro_batches_add_up_exactly_where_nothing_depends_on_the_batch():
    graph = GRAPHS["resnet8"]
    x, y = batch(graph, 12)
    results = []
    for size in (0, 4):
        engine = TorchEngine()
        engine.load(graph, trained_params(graph), {})
        engine.train_step(x, y, StepSettings(0.1, micro_batch=size, fixed_norm=True))
        results.append(engine.params())
    for n in results[0]:
        np.testing.assert_allclose(results[1][n], results[0][n], rtol=1e-3, atol=1e-5, err_msg=n)


def test_activations_cost_what_normalised_weights_cost():
    batch_norm = build(ModelSettings("resnet18", (3, 32, 32), 10, {}))
    nsconv = build(ModelSettings("resnet18", (3, 32, 32), 10, {"norm": "nsconv"}))
    for keep in (1.0, 0.3):
        assert activation_bytes(batch_norm, 8, keep, fixed_norm=True) == activation_bytes(nsconv, 8, keep)
