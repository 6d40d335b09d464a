"""Batch norm with a pruned cache: exact forward and shift, and a backward pass that follows its formula."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from tests.fedcore.training.engines import new_engine  # noqa: E402
from tests.fedcore.training.graphs import batch, masked, residual_graph  # noqa: E402
from tinyfleet.fedcore.accounting import activation_bytes  # noqa: E402
from tinyfleet.fedcore.models.registry import build  # noqa: E402
from tinyfleet.fedcore.run_spec import ModelSettings  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.levers import Levers  # noqa: E402
from tinyfleet.fedcore.training.torch.activation_pruning import Pruning  # noqa: E402
from tinyfleet.fedcore.training.torch.norm import PrunedBatchNorm  # noqa: E402


def tensors(shape=(6, 4, 5, 5)):
    generator = torch.Generator().manual_seed(1)
    x = 2.0 * torch.randn(shape, generator=generator) + 0.7
    scale = torch.rand(shape[1], generator=generator) + 0.5
    return x, scale, torch.randn(shape[1], generator=generator), torch.randn(shape, generator=generator)


def run(keep, shape=(6, 4, 5, 5), overwrite=False):
    """(output, gradients of input, scale and shift, running statistics)."""
    x, scale, shift, slope = tensors(shape)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, scale, shift)]
    running = (torch.zeros(shape[1]), torch.ones(shape[1]))
    source = leaves[0] * 1.0  # a layer's output: not a leaf, so that it may be overwritten
    y = PrunedBatchNorm.apply(source, leaves[1], leaves[2], running, 0.1, overwrite, Pruning(keep, torch.float32))
    return y.detach(), torch.autograd.grad(y, leaves, slope), running


@pytest.mark.parametrize("shape", [(6, 4, 5, 5), (7, 3, 11)])
@pytest.mark.parametrize("overwrite", [False, True])
def test_with_everything_kept_it_is_batch_norm(shape, overwrite):
    x, scale, shift, slope = tensors(shape)
    leaves = [tensor.clone().requires_grad_() for tensor in (x, scale, shift)]
    running = (torch.zeros(shape[1]), torch.ones(shape[1]))
    expected = functional.batch_norm(leaves[0], *running, leaves[1], leaves[2], True, 0.1, 1e-5)
    gradients = torch.autograd.grad(expected, leaves, slope)
    y, found, moved = run(1.0, shape, overwrite)
    torch.testing.assert_close(y, expected.detach())
    for ours, theirs in zip((*found, *moved), (*gradients, *running), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_formula_of_a_pruned_cache():
    x, scale, shift, slope = (tensor.double() for tensor in tensors())
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    inverse = 1.0 / torch.sqrt(var + 1e-5)
    normalised = (x - mean) * inverse
    kept = torch.zeros_like(normalised).reshape(-1)
    largest = normalised.reshape(-1).abs().topk(round(0.4 * normalised.numel())).indices
    kept[largest] = normalised.reshape(-1)[largest]
    kept = kept.view_as(x)
    along, energy = (slope * kept).sum((0, 2, 3), keepdim=True), kept.square().sum((0, 2, 3), keepdim=True)
    inputs = (
        scale.view(1, -1, 1, 1) * inverse * (slope - slope.mean((0, 2, 3), keepdim=True) - kept * along / energy)
    )
    y, (of_input, of_scale, of_shift), _ = run(0.4)
    exact = normalised * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    torch.testing.assert_close(y, exact.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_input, inputs.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_scale, (along / energy * 150).flatten().float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of_shift, slope.sum((0, 2, 3)).float(), rtol=1e-4, atol=1e-5)


def test_a_network_trains_on_pruned_norms(engine_name):
    graph = residual_graph()
    mask = masked(graph, 0.5)
    x, y = batch(graph, 24)
    losses = {}
    for pruned in (False, True):
        engine = new_engine(engine_name)
        engine.load(graph, graph.initial_params(0), mask)
        settings = StepSettings(0.05, 0.9, pruned_norm=pruned, levers=Levers(activation_keep=0.4, cache="fp16"))
        losses[pruned] = [engine.train_step(x, y, settings) for _ in range(60)]
        assert all(not engine.params()[name][~active].any() for name, active in mask.items())
    assert losses[True][0] == pytest.approx(losses[False][0], rel=1e-6)
    assert losses[True][-1] < 0.3 * losses[True][0]
    assert not np.allclose(losses[True][1:], losses[False][1:])


def test_norms_cost_what_they_keep():
    graph = build(ModelSettings("resnet18", (3, 32, 32), 10, {}))
    exact, pruned = activation_bytes(graph, 8, 0.3), activation_bytes(graph, 8, 0.3, pruned_norm=True)
    norms = sum(int(np.prod(graph.shapes[n.inputs[0]])) for n in graph.nodes if n.op == "batch_norm")
    assert exact - pruned == pytest.approx(8 * norms * (4 - 0.3 * 4 - 1 / 8), rel=1e-6)
    assert activation_bytes(graph, 8, 1.0, pruned_norm=True) == activation_bytes(graph, 8, 1.0)
