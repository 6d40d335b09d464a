"""Layers in company: what the engine fuses, shares and recomputes changes no number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from checks import STEP, assert_close, check_gradients, check_predictions, check_steps, pair, safe_batch
from reference_network import Reference
from structures import MODELS, STEM, add, conv, flatten, norm, whole

from sparse_engine import Layer, Model, ModelError, Network, Op

MARGIN = 2e-5  # many values are read here: chance must leave a batch
FLOOR = 0.1  # norms of few values give small differences of gradients that are not small


@pytest.mark.parametrize("recompute", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_structure(name, recompute):
    for seed, samples, threads in ((1, 2, 1), (2, 3, 2), (3, 16, 1)):
        network, reference = pair(MODELS[name], seed, 0.6, threads)
        x, y = safe_batch(reference, seed, samples, MARGIN)
        check_predictions(network, reference, x)
        if not recompute:
            check_gradients(network, reference, x, y, floor=FLOOR)
            check_gradients(network, reference, x, y, "flow", FLOOR)
        check_steps(network, reference, x, y, replace(STEP, recompute=recompute), steps=1)


def dropped(network: Network, model: Model, samples: int) -> np.ndarray:
    """The dropout layer's factors, sample by sample, as the gradient of the linear layer behind it shows them."""
    size = model.input_shape[0]
    network.set(
        {
            "before.weight": np.eye(size, dtype=np.float32)[:, :, None, None],
            "head.weight": np.ones((2, size * 9), np.float32),
        }
    )
    found = []
    for sample in range(samples):
        x = np.zeros((samples, *model.input_shape), np.float32)
        x[sample] = 1
        ((_, _, gradient),) = network.gradients(x, np.zeros(samples, np.int64), ["head"], objective="flow")
        found.append(gradient[0].reshape(size, 3, 3).copy())
    return np.array(found)


@pytest.mark.parametrize("samples", [1, 5, 16])
@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout(rate, samples):
    size = 9
    layers = (conv("before", "input", size, size, 1), Layer("drop", Op.DROPOUT, ("before",), rate=rate))
    model = Model((size, 3, 3), (*layers, Layer("head", Op.LINEAR, ("drop",), size * 9, 2)))
    factors = dropped(Network(model), model, samples)
    kept = factors != 0
    assert_close(factors[kept], np.full(kept.sum(), 1 / (1 - rate)), "kept values")
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    assert samples == 1 or (kept[0] != kept[1]).any()
    network, drawn = pair(model, 3)
    reference = Reference(model, drawn.params, dropped={"drop": factors})
    x, y = safe_batch(reference, 1, samples)
    check_predictions(network, reference, x)
    check_gradients(network, reference, x, y)
    check_steps(network, reference, x, y, steps=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_depthwise_branch_beside_a_shortcut(threads):
    """So large that its channels are worked on in slices; its input's gradient is added to the shortcut's."""
    channels = 20
    layers = (
        conv("stem", "input", channels, channels, 1),
        conv("depthwise", "stem", channels, channels, groups=channels),
        add("sum", "stem", "depthwise"),
        Layer("mean", Op.GLOBAL_AVG_POOL, ("sum",)),
        Layer("head", Op.LINEAR, ("mean",), channels, 3, bias=True),
    )
    network, reference = pair(Model((channels, 16, 16), layers), 5, threads=threads)
    x, y = safe_batch(reference, 1, 16)
    check_gradients(network, reference, x, y)
    check_steps(network, reference, x, y, steps=1)


@pytest.mark.parametrize("samples", [1, 6, 16])
def test_dropout_of_a_flattened_image(samples):
    """As classifiers have it. It has other channels, so that its factors are drawn in another order."""
    size = 9
    layers = (
        conv("before", "input", size, size, 1),
        flatten("before"),
        Layer("drop", Op.DROPOUT, ("flat",), rate=0.5),
    )
    model = Model((size, 3, 3), (*layers, Layer("head", Op.LINEAR, ("drop",), size * 9, 2)))
    factors = dropped(Network(model), model, samples).reshape(samples, -1, 1, 1)
    network, drawn = pair(model, 3)
    reference = Reference(model, drawn.params, dropped={"drop": factors})
    x, y = safe_batch(reference, 1, samples)
    check_gradients(network, reference, x, y)
    check_steps(network, reference, x, y, steps=1)


def test_dropout_of_nothing_is_no_layer():
    model = whole(*STEM, Layer("drop", Op.DROPOUT, ("x",), rate=0.0), conv("c", "drop", 4, 3))
    network, drawn = pair(model, 4)
    reference = Reference(model, drawn.params, dropped={"drop": np.ones(1)})
    x, y = safe_batch(reference, 2, 6)
    check_gradients(network, reference, x, y)


def test_norm_of_a_flattened_image_is_refused():
    """Its channels are not the stored ones."""
    model = whole(*STEM, flatten("x"), norm("n", "flat", 64), flat=True)
    network, _ = pair(model, 1)
    with pytest.raises(ModelError, match=r"'n'.*flattened"):
        network.predict(np.zeros((1, 2, 4, 4), np.float32))
