"""The default method: a gradually pruned start on public data, then adjusted training on devices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.parts.gradual import CUT_SHARE, density_at, effective_weights
from tinyfleet.fedcore.methods.registry import create
from tinyfleet.fedcore.models.graph import WeightNorm
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.models.weight_norm import normalized_weight
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.mask import active_counts, density
from tinyfleet.fedcore.training.torch.engine import TorchEngine

SETTINGS = {"name": "tinyfleet", "density": 0.1, "interval": 2, "stop": 6}


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def tinyfleet(rounds=8, own=None, **settings):
    return create({**SETTINGS, **settings}, own or problem(rounds))


def test_the_schedule_falls_from_dense_to_the_target():
    assert density_at(0.0, 0.05) == 1.0
    assert density_at(CUT_SHARE / 2, 0.05) == pytest.approx(0.05 + 0.95 / 8)
    assert density_at(CUT_SHARE, 0.05) == density_at(1.0, 0.05) == 0.05


@pytest.mark.parametrize("allocation", ["lamp", "erk", "uniform"])
def test_masks_shrink_within_each_other_to_the_exact_density(allocation):
    class Watching(TorchEngine):
        masks: list = []  # noqa: RUF012

        def load(self, graph, params, mask):
            if mask:
                self.masks.append({name: active.copy() for name, active in mask.items()})
            super().load(graph, params, mask)

    engine = Watching()
    engine.masks.clear()
    method = tinyfleet(allocation=allocation, pruning_epochs=6)
    state = method.initial_state(engine, dataset(96, 1))
    total = sum(method.problem.graph.params[name].size for name in method.problem.graph.maskable)
    assert sum(active_counts(state.mask).values()) <= int(0.1 * total)
    assert density(state.mask) == pytest.approx(0.1, abs=0.005)
    assert len(engine.masks) > 10
    for before, after in zip(engine.masks, engine.masks[1:], strict=False):
        assert all((before[name] | ~after[name]).all() for name in after)
    assert all(np.array_equal(engine.masks[-1][name], state.mask[name]) for name in state.mask)
    for name, active in state.mask.items():
        assert not state.params[name][~active].any()


def test_a_pruned_and_trained_start_beats_a_cut_one(engine):
    """Same density, same public data: gradual pruning against one magnitude cut, before any device trained."""
    test, losses = dataset(300, 7), {}
    own = problem()
    own = dataclasses.replace(own, training=type(own.training)(rounds=6, batch=16, pretrain_epochs=6))
    gradual = create({**SETTINGS, "allocation": "erk", "density": 0.05}, own)
    cut = create(
        {"name": "fedtiny", "density": 0.05, "selection": False, "allocation": "erk", "progressive": False}, own
    )
    for name, method in (("gradual", gradual), ("cut", cut)):
        state = method.initial_state(engine, dataset(96, 1))
        engine.load(own.graph, state.params, state.mask)
        losses[name] = engine.evaluate(test.x, test.y).loss
    assert losses["gradual"] < losses["cut"]


def test_normalised_convolutions_are_ranked_by_what_their_mask_multiplies():
    graph = build(ModelSettings("small_cnn", (1, 12, 12), 4, {"width": 4, "norm": "nsconv"}))
    params = graph.initial_params(0)
    mask = {name: np.random.default_rng(1).random(graph.params[name].shape) < 0.5 for name in graph.maskable}
    found = effective_weights(graph, params, mask)
    for node in graph.nodes:
        if node.weight in mask:
            assert node.weight_norm is WeightNorm.ACTIVE
            expected = normalized_weight(
                params[node.weight], params[node.filter_gain], mask[node.weight], node.weight_norm
            )
            assert np.array_equal(found[node.weight], expected)


def test_rounds_adjust_the_mask_and_the_wire_changes_nothing(engine):
    method = tinyfleet()
    state = method.initial_state(engine, dataset(96, 1))
    before, masks = active_counts(state.mask), [state.mask]
    while not method.finished(state):
        task = decode(encode(method.configure_round(state), precision="fp16"))
        fold = method.begin_fold(state)
        for device in devices():
            method.fold(fold, method.run(task, engine, device, Control()))
        state = method.finish_round(decode(encode(state, precision="fp32")), fold)
        masks.append(state.mask)
        assert active_counts(state.mask) == before
    changed = [any((a[n] != b[n]).any() for n in a) for a, b in zip(masks, masks[1:], strict=False)]
    assert changed[2]
    assert changed[4]
    assert not any(changed[i] for i in (0, 1, 3, 5, 7))


def test_only_the_public_data_shapes_the_start(engine):
    first = tinyfleet().initial_state(engine, dataset(96, 1))
    again = tinyfleet().initial_state(engine, dataset(96, 1))
    other = tinyfleet().initial_state(engine, dataset(96, 2))
    assert encode(first, precision="fp32") == encode(again, precision="fp32")
    assert encode(first, precision="fp32") != encode(other, precision="fp32")
    state, _ = run_step(tinyfleet(), engine, first, devices())
    assert state.meta["round"] == 1
