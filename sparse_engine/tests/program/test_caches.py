"""Lossy caches: gradients are the formula's of what is kept, and that takes as little memory as it says."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, batch, check_gradients, check_steps, pair, safe_batch
from reference_network import WEIGHTED
from structures import MODELS, add, conv, whole

from sparse_engine import Cache, Layer, Model, ModelError, Op, StepOptions
from sparse_engine.program.values import Saving

PLAIN = whole(
    conv("a", "input", 2, 8, bias=True),
    Layer("r", Op.RELU, ("a",)),
    conv("b", "r", 8, 8, weight_norm="active"),
    Layer("r6", Op.RELU6, ("b",)),
    conv("c", "r6", 8, 8),
    add("sum", "c", "r6"),
    Layer("h", Op.HARD_SWISH, ("sum",)),
    conv("deep", "h", 8, 8, stride=2, groups=8),
)
"""Without batch norm; of one activation no bits tell the derivative."""
TRIED = {
    "plain": PLAIN,
    **{name: MODELS[name] for name in ("residual, identity", "residual, shortcut after", "inverted residual")},
}
each_model = pytest.mark.parametrize("model", TRIED.values(), ids=TRIED)


def caches_of(model: Model, saving: Saving) -> dict[str, Cache]:
    """What the reference is told."""
    weighted = {layer.name: saving.of(layer.name) for layer in model.layers if layer.op in WEIGHTED}
    norms = {layer.name: saving.of_norm(layer.name) for layer in model.layers if layer.op is Op.BATCH_NORM}
    return {name: cache for name, cache in (weighted | norms).items() if not cache.exact}


@each_model
@pytest.mark.parametrize("recompute", [0, 1, 2])
@pytest.mark.parametrize("norms", [False, True], ids=["exact norms", "pruned norms"])
@pytest.mark.parametrize("keep", [0.2, 0.5])
def test_steps_are_those_of_what_is_kept(model, keep, norms, recompute):
    step = StepOptions(0.05, momentum=0.9, penalty=0.3, keep=keep, pruned_norm=norms, recompute=recompute)
    network, reference = pair(model, 3, density=0.6)
    reference.caches = caches_of(model, step.saving)
    x, y = safe_batch(reference, 5, 4)
    check_steps(network, reference, x, y, step)


@each_model
def test_growth_gradients_see_what_is_kept(model):
    saving = StepOptions(0.1, keep=0.3, pruned_norm=True).saving
    network, reference = pair(model, 4, density=0.6)
    reference.caches = caches_of(model, saving)
    x, y = safe_batch(reference, 6, 4)
    check_gradients(network, reference, x, y, saving=saving)


@each_model
@pytest.mark.parametrize("recompute", [0, 2])
def test_layers_have_caches_of_their_own(model, recompute):
    """Some pruned at different shares, the others exact."""
    weighted = [layer.name for layer in model.layers if layer.op in WEIGHTED]
    norms = [layer.name for layer in model.layers if layer.op is Op.BATCH_NORM]
    layers = {weighted[1]: Cache(0.3), weighted[-1]: Cache(0.7), **{name: Cache(0.5) for name in norms[-1:]}}
    step = StepOptions(0.05, momentum=0.9, layers=layers, recompute=recompute)
    network, reference = pair(model, 3, density=0.6)
    reference.caches = caches_of(model, step.saving)
    assert reference.caches == layers
    x, y = safe_batch(reference, 5, 4)
    check_steps(network, reference, x, y, step)


@each_model
def test_all_values_in_half_precision_lose_its_rounding_alone(model):
    step, exact = StepOptions(0.05, cache="fp16", pruned_norm=True), StepOptions(0.05)
    network, reference = pair(model, 3, density=0.6)
    x, y = safe_batch(reference, 5, 4)
    names = [layer.name for layer in model.layers if layer.op in WEIGHTED]
    found, wanted = (
        {name: gradient for name, _, gradient in network.gradients(x, y, names, saving=s.saving)}
        for s in (step, exact)
    )
    assert any((found[name] != wanted[name]).any() for name in names)
    for name in names:
        assert_close(found[name], wanted[name], name, tolerance=2e-3)


@pytest.mark.parametrize("norms", [False, True])
def test_the_arena_shrinks_with_what_is_kept(norms):
    def arena(**more) -> int:
        network, _ = pair(model, 3)
        network.train_step(
            *batch(model, np.random.default_rng(5), 16), StepOptions(0.05, pruned_norm=norms, **more)
        )
        return network.arena_bytes

    layers = [conv("first", "input", 2, 16), Layer("r0", Op.RELU, ("first",))]
    for i in range(1, 9):
        layers.append(conv(f"c{i}", f"r{i - 1}", 16, 16))
        before = f"c{i}"
        if norms:
            layers.append(Layer(f"n{i}", Op.BATCH_NORM, (f"c{i}",), 16, 16))
            before = f"n{i}"
        layers.append(Layer(f"r{i}", Op.RELU, (before,)))
    model = whole(*layers)
    exact, half, pruned, both = arena(), arena(cache="fp16"), arena(keep=0.3), arena(keep=0.3, cache="fp16")
    assert exact > pruned > both
    assert norms or exact > half > pruned  # a norm's values and what is read of them are two copies
    one = arena(layers={"c4": Cache(0.1, "fp16")} | ({"n3": Cache(0.1, "fp16")} if norms else {}))
    assert both < one < exact


def test_caches_of_what_has_none_are_refused():
    network, reference = pair(PLAIN, 3)
    x, y = safe_batch(reference, 5, 4)
    with pytest.raises(ModelError, match=r"chosen for \['nowhere', 'r'\]"):
        network.train_step(x, y, StepOptions(0.1, layers={"r": Cache(0.5), "nowhere": Cache(0.5)}))
    for wrong in ({"keep": 0.0}, {"keep": 1.5}, {"keep": float("nan")}, {"precision": "int8"}):
        with pytest.raises(ValueError, match="0 < keep <= 1"):
            Cache(**wrong)
