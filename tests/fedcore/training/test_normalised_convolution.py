"""NSConv: the normalised weight, its gradient, and growth gradients taken before the mask."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.fedcore.training.graphs import batch, conv, masked  # noqa: E402
from tinyfleet.fedcore.models.graph import Op, Role, WeightNorm  # noqa: E402
from tinyfleet.fedcore.models.registry import build  # noqa: E402
from tinyfleet.fedcore.models.weight_norm import NORM_FLOOR, VP_RELU_GAIN, normalized_weight  # noqa: E402
from tinyfleet.fedcore.run_spec import ModelSettings  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.levers import Levers  # noqa: E402
from tinyfleet.fedcore.training.torch import layers as torch_layers  # noqa: E402
from tinyfleet.fedcore.training.torch import nsconv as torch_nsconv  # noqa: E402
from tinyfleet.fedcore.training.torch.engine import TorchEngine  # noqa: E402
from tinyfleet.fedcore.training.torch.forward import Mode, forward  # noqa: E402
from tinyfleet.fedcore.training.torch.layers import Convolution, Kernel  # noqa: E402

NORMS = [WeightNorm.ACTIVE, WeightNorm.ALL]


def weights(seed=0, shape=(5, 4, 3, 3), density=0.4):
    rng = np.random.default_rng(seed)
    active = rng.random(shape) < density
    weight = (rng.standard_normal(shape) * active).astype(np.float32)
    return weight, rng.uniform(0.5, 2.0, shape[0]).astype(np.float32), active


@pytest.mark.parametrize("norm", NORMS)
def test_the_formula_by_hand(norm):
    weight = np.array([[3.0, 1.0, 0.0, 0.0]], np.float32)
    active = np.array([[True, True, False, False]])
    found = normalized_weight(weight, np.array([2.0], np.float32), active, norm)
    if norm is WeightNorm.ACTIVE:  # mean 2, N var = 2
        expected = 2.0 * np.array([1.0, -1.0, 0.0, 0.0]) / np.sqrt(2.0)
    else:  # mean 1, N var = 4 + 0 + 1 + 1
        expected = 2.0 * np.array([2.0, 0.0, 0.0, 0.0]) / np.sqrt(6.0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_filter_of_equal_weights_is_not_blown_up():
    weight = np.full((1, 4), 0.5, np.float32)
    weight[0, 0] += 1e-4
    found = normalized_weight(weight, np.ones(1, np.float32), None, WeightNorm.ACTIVE)
    assert np.abs(found).max() <= 1e-4 / np.sqrt(NORM_FLOOR)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (6, 1, 3, 3), (5, 4, 7), (5, 9)])
def test_torch_computes_what_numpy_computes(norm, shape):
    weight, gain, active = weights(1, shape)
    for mask in (active, None):
        ours = normalized_weight(weight, gain, mask, norm)
        tensors = [torch.from_numpy(a) if a is not None else None for a in (weight, gain, mask)]
        found = torch_nsconv.normalized_weight(*tensors, norm)
        np.testing.assert_allclose(found.numpy(), ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dense", [False, True])
def test_gradients_against_finite_differences(norm, dense):
    weight, gain, active = weights(2, (3, 2, 3, 3), 0.5)
    weight[0] *= 1e-4  # a filter at the floor
    node = conv("c", "input", 2, 3, bias=True)
    node = type(node)(
        **{name: getattr(node, name) for name in node.__slots__ if name != "weight_norm"}, weight_norm=norm
    )
    mask = None if dense else torch.from_numpy(active)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    arguments = [x, torch.from_numpy(weight).double(), torch.zeros(3).double(), torch.from_numpy(gain).double()]
    for tensor in arguments:
        tensor.requires_grad_()

    def layer(x, w, b, g):
        # Masked entries are zero whatever the optimiser would make of them.
        w = w if mask is None else w * mask
        return Convolution.apply(x, w, b, g, None, Kernel(node, mask, None))

    assert torch.autograd.gradcheck(layer, arguments, eps=1e-7, atol=1e-5)


def network(norm):
    return build(ModelSettings("small_cnn", (1, 12, 12), 4, {"width": 4, "norm": norm}))


@pytest.mark.parametrize("norm", ["nsconv", "nsconv-all"])
def test_growth_gradients_are_those_of_the_weight_before_the_mask(norm):
    """Finite differences of the loss in single entries of the normalised weight at pruned positions."""
    graph = network(norm)
    mask = masked(graph, 0.3)
    x, y = batch(graph, 8)
    name = "conv2.weight"
    pruned = np.flatnonzero(~mask[name].reshape(-1))
    engine = TorchEngine()
    engine.load(graph, graph.initial_params(3), mask)
    found = engine.top_gradients(x, y, {name: len(pruned)})[name]
    assert np.array_equal(found.positions, pruned)
    per_filter = {p // (mask[name][0].size): [] for p in pruned}
    for position, value in zip(found.positions, found.values, strict=True):
        per_filter[position // mask[name][0].size].append(value)
    assert all(len(set(values)) > 1 for values in per_filter.values() if len(values) > 1)

    original = torch_layers._used_weight
    tensors = {n: torch.from_numpy(v).double() for n, v in engine.params().items()}
    active = {n: torch.from_numpy(m) for n, m in mask.items()}

    def loss(position, step):
        def shifted(weight, gain, kernel):
            used = original(weight, gain, kernel)
            if kernel.node.weight == name:
                used = used.clone().contiguous()
                used.view(-1)[position] += step
            return used

        torch_layers._used_weight = shifted
        try:
            mode = Mode(training=True, active=active)
            logits = forward(graph, tensors, torch.from_numpy(x).double(), mode)
            return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)))
        finally:
            torch_layers._used_weight = original

    for index in range(0, len(pruned), max(1, len(pruned) // 12)):
        slope = (loss(pruned[index], 1e-5) - loss(pruned[index], -1e-5)) / 2e-5
        assert slope == pytest.approx(float(found.values[index]), rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["small_cnn", "resnet8", "resnet20", "resnet18", "mobilenet_v2", "vgg11"])
def test_networks_without_batch_norm_carry_their_signal(name):
    """Freshly made: nothing dies or explodes, however many layers."""
    arguments = {"norm": "nsconv"} | ({"width": 0.25} if name == "mobilenet_v2" else {"width": 16})
    graph = build(ModelSettings(name, (3, 32, 32), 10, arguments))
    assert not any(n.op is Op.BATCH_NORM for n in graph.nodes)
    gains = {n.gain for n in graph.nodes if n.op is Op.RELU}
    assert gains <= {1.0, VP_RELU_GAIN}
    convolutions = [n for n in graph.nodes if n.op is Op.CONV]
    assert all(n.weight_norm and n.bias and graph.params[n.filter_gain].role is Role.GAIN for n in convolutions)
    engine = TorchEngine()
    engine.load(graph, graph.initial_params(0), {})
    logits = engine.predict(batch(graph, 16)[0])
    assert np.isfinite(logits).all()
    assert 0.05 < logits.std() < 20


@pytest.mark.parametrize("norm", ["nsconv", "nsconv-all"])
def test_it_learns_and_masked_weights_stay_zero(norm):
    graph = network(norm)
    mask = masked(graph, 0.3)
    engine = TorchEngine()
    engine.load(graph, graph.initial_params(0), mask)
    x, y = batch(graph, 32)
    losses = [
        engine.train_step(x, y, StepSettings(0.05, 0.9, 5e-4, levers=Levers(activation_keep=0.5)))
        for _ in range(60)
    ]
    assert losses[-1] < 0.3 * losses[0]
    assert all(not engine.params()[name][~active].any() for name, active in mask.items())


def test_one_sample_batches_train():
    """Batch norm has no variance over one pixel of one sample; NSConv does not care."""
    graph = network("nsconv")
    engine = TorchEngine()
    engine.load(graph, graph.initial_params(0), masked(graph, 0.5))
    x, y = batch(graph, 1)
    losses = [engine.train_step(x, y, StepSettings(0.05)) for _ in range(20)]
    assert losses[-1] < losses[0]
