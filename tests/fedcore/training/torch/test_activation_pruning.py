"""Scaled activation pruning: what is cached, and that only the weight gradient sees it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.fedcore.training.engines import new_engine  # noqa: E402
from tests.fedcore.training.graphs import batch, conv, masked, one_dimensional_graph, residual_graph  # noqa: E402
from tinyfleet.fedcore.models.builder import GraphBuilder  # noqa: E402
from tinyfleet.fedcore.models.graph import Node, Op, WeightNorm  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.levers import Levers  # noqa: E402
from tinyfleet.fedcore.training.torch.activation_pruning import (  # noqa: E402
    Pruning,
    compress,
    expand,
    flat_memory,
    pack,
    pack_anywhere,
    threshold,
    unpack,
    unpack_anywhere,
)
from tinyfleet.fedcore.training.torch.engine import TorchEngine  # noqa: E402
from tinyfleet.fedcore.training.torch.layers import Convolution, Kernel, convolve  # noqa: E402
from tinyfleet.fedcore.training.torch.relu import CompactReLU  # noqa: E402


def pruning(keep: float, dtype=torch.float32) -> Pruning:
    return Pruning(keep, dtype)


@given(st.lists(st.booleans(), max_size=70))
def test_bitmaps_come_back(flags):
    tensor = torch.tensor(flags, dtype=torch.bool)
    assert unpack(pack(tensor), len(flags)).tolist() == flags
    assert len(pack(tensor)) == -(-len(flags) // 8)
    assert torch.equal(pack_anywhere(tensor), pack(tensor))  # what runs on a GPU
    assert unpack_anywhere(pack(tensor), len(flags)).tolist() == flags


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3000), st.sampled_from([0.1, 0.3, 0.5, 0.9]))
def test_small_tensors_keep_exactly_the_largest(seed, size, keep):
    flat = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    bitmap, values = compress(flat, pruning(keep))
    kept = max(1, round(keep * size))
    assert len(values) == kept
    expected = torch.zeros(size)
    largest = flat.abs().topk(kept).indices
    expected[largest] = flat[largest]
    _, shape = flat_memory(flat)
    assert torch.equal(expand(bitmap, values, shape), expected)


def test_large_tensors_keep_the_asked_share_within_sampling_error():
    flat = torch.randn(3_000_000, generator=torch.Generator().manual_seed(1))
    for keep in (0.5, 0.3, 0.05):
        bitmap, values = compress(flat, pruning(keep))
        assert len(values) / flat.numel() == pytest.approx(keep, abs=0.015)
        assert float(values.abs().min()) >= threshold(flat, keep)
        assert bitmap.numel() == flat.numel() // 8


def test_zeros_are_never_stored_and_then_nothing_is_lost():
    x = torch.relu(torch.randn(64, 8, 9, 9, generator=torch.Generator().manual_seed(2)))
    flat, shape = flat_memory(x)
    bitmap, values = compress(flat, pruning(0.7))
    assert len(values) == int((x != 0).sum())
    assert torch.equal(expand(bitmap, values, shape), x)


def test_equal_values_survive_together():
    flat = torch.full((1000,), 6.0)
    bitmap, values = compress(flat, pruning(0.3))
    assert len(values) == 1000
    assert int(unpack(bitmap, 1000).sum()) == 1000


def test_channels_innermost_keep_their_layout():
    x = torch.randn(4, 6, 5, 5).contiguous(memory_format=torch.channels_last)
    flat, shape = flat_memory(x)
    assert flat.data_ptr() == x.data_ptr()  # no copy
    back = expand(*compress(flat, pruning(1.0)), shape)
    assert torch.equal(back, x)
    assert back.stride() == x.stride()


LAYERS = {
    "conv": (conv("c", "input", 3, 5), (4, 3, 8, 8)),
    "strided": (conv("c", "input", 3, 5, stride=2, bias=True), (4, 3, 8, 8)),
    "depthwise": (conv("c", "input", 6, 6, groups=6), (4, 6, 8, 8)),
    "one-dimensional": (Node("c", Op.CONV, ("input",), 3, 5, (5,), (2,), (2,)), (4, 3, 20)),
    "linear": (Node("c", Op.LINEAR, ("input",), 12, 7, bias=True), (4, 12)),
}


def gradients(node, x, keep, dtype=torch.float32):
    """(output, gradients of input, weight and bias) of one layer with a pruned cache."""
    generator = torch.Generator().manual_seed(5)
    shape = (node.out_channels, node.in_channels // node.groups, *node.kernel)
    weight = torch.randn(shape, generator=generator).requires_grad_()
    bias = torch.randn(node.out_channels, generator=generator).requires_grad_() if node.bias else None
    x = x.clone().requires_grad_()
    y = Convolution.apply(x, weight, bias, None, None, Kernel(node, None, keep and pruning(keep, dtype)))
    slope = torch.randn(y.shape, generator=generator)
    wanted = [x, weight] + ([bias] if node.bias else [])
    return y.detach(), torch.autograd.grad(y, wanted, slope), weight.detach(), bias, slope


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_only_the_weight_gradient_sees_the_pruned_input(kind, keep):
    node, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    y, (of_input, of_weight, *of_bias), weight, bias, slope = gradients(node, x, keep)
    # The formula, in float64: the weight gradient of the same layer on the input's largest entries.
    flat = x.reshape(-1)
    kept = torch.zeros_like(flat)
    largest = flat.abs().topk(round(keep * flat.numel())).indices
    kept[largest] = flat[largest]
    w64 = weight.double().requires_grad_()
    x64, pruned64 = x.double().requires_grad_(), kept.view(shape).double()
    b64 = bias.detach().double().requires_grad_() if bias is not None else None
    exact = convolve(node, x64, w64, b64)
    torch.testing.assert_close(y, exact.float(), rtol=1e-5, atol=1e-5)
    (expected_input,) = torch.autograd.grad(exact, [x64], slope.double())
    torch.testing.assert_close(of_input, expected_input.float(), rtol=1e-5, atol=1e-5)
    (expected_weight,) = torch.autograd.grad(convolve(node, pruned64, w64, None), [w64], slope.double())
    torch.testing.assert_close(of_weight, expected_weight.float(), rtol=1e-5, atol=1e-5)
    if of_bias:
        torch.testing.assert_close(of_bias[0], slope.transpose(0, 1).flatten(1).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_cache_that_keeps_everything_changes_no_bit(kind):
    node, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for whole, plain in zip(gradients(node, x, 1.0)[1], gradients(node, x, None)[1], strict=True):
        assert torch.equal(whole, plain)


def test_half_precision_halves_the_values():
    flat = torch.randn(4096)
    bitmap, values = compress(flat, pruning(0.5, torch.float16))
    assert values.element_size() == 2
    _, shape = flat_memory(flat)
    restored = expand(bitmap, values, shape)
    torch.testing.assert_close(restored[restored != 0], flat[restored != 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ceiling", [None, 6.0])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_compact_relu(ceiling, packed, gain):
    if ceiling and gain != 1.0:
        pytest.skip("ReLU6 has no gain")
    x = (5 * torch.randn(2, 3, 5, 5)).requires_grad_()
    slope = torch.randn(2, 3, 5, 5)
    expected = torch.clamp(x, 0.0, ceiling) * gain
    (wanted,) = torch.autograd.grad(expected, [x], slope)
    for overwrite, own in ((False, False), (True, True)):
        source = x.detach().clone().requires_grad_()
        y = CompactReLU.apply(source * 1.0, gain, ceiling, packed, overwrite, own)
        assert torch.equal(y, expected)
        (found,) = torch.autograd.grad(y, [source], slope.clone())
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("graph", [residual_graph(), one_dimensional_graph()], ids=["2d", "1d"])
def test_training_with_everything_kept_is_plain_training(graph):
    """Bit for bit: the second engine sends every input through a bitmap and values, all of them kept."""
    x, y = batch(graph, 6)
    plain, cached = TorchEngine(), TorchEngine()
    cached._pruning = lambda settings: pruning(1.0)
    for engine in (plain, cached):
        engine.load(graph, graph.initial_params(0), masked(graph, 0.5))
        for _ in range(3):
            engine.train_step(x, y, StepSettings(0.05, 0.9, 1e-3, levers=Levers(activation_keep=1.0)))
    first, second = plain.params(), cached.params()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_step_with_pruned_caches_changes_weights_but_neither_loss_nor_biases(engine_name):
    graph = residual_graph()
    x, y = batch(graph, 16)
    results = {}
    for keep in (1.0, 0.3):
        engine = new_engine(engine_name)
        engine.load(graph, graph.initial_params(0), {})
        loss = engine.train_step(x, y, StepSettings(0.1, levers=Levers(activation_keep=keep)))
        results[keep] = (loss, engine.params())
    assert results[1.0][0] == pytest.approx(results[0.3][0], rel=1e-6)  # the forward pass is exact
    exact, lossy = results[1.0][1], results[0.3][1]
    np.testing.assert_allclose(lossy["output.bias"], exact["output.bias"], rtol=1e-5)
    np.testing.assert_allclose(lossy["stem_norm.weight"], exact["stem_norm.weight"], rtol=1e-4)
    assert not np.allclose(lossy["wide.weight"], exact["wide.weight"], rtol=1e-3)


def test_normalised_convolutions_are_pruned_too(monkeypatch):
    """A converter that knows plain convolutions alone would miss exactly the layers that FedMef trains."""
    from tinyfleet.fedcore.training.torch import layers as torch_layers

    seen = []

    def spy(flat, pruning):
        seen.append(flat.numel())
        return compress(flat, pruning)

    monkeypatch.setattr(torch_layers, "compress", spy)
    b = GraphBuilder("net", (3, 8, 8), 4, "nsconv")
    b.conv_norm("stem", 8)
    b.conv_norm("body", 8)
    b.global_avg_pool()
    b.linear("output", 4)
    graph = b.build([["body"]])
    assert all(n.weight_norm is WeightNorm.ACTIVE for n in graph.nodes if n.op is Op.CONV)
    engine = TorchEngine()
    engine.load(graph, graph.initial_params(0), masked(graph, 0.5))
    engine.train_step(*batch(graph, 4), StepSettings(0.1, levers=Levers(activation_keep=0.5)))
    assert seen == [4 * 3 * 64, 4 * 8 * 64, 4 * 8]  # stem, body, output layer
