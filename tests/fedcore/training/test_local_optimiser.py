"""Optimisers, clipping and FedProx on either engine: formulas by hand, and torch's own optimisers as witnesses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.fedcore.training.engines import new_engine  # noqa: E402
from tests.fedcore.training.graphs import batch, masked, one_dimensional_graph, residual_graph  # noqa: E402
from tests.fedcore.training.reference import Reference  # noqa: E402
from tinyfleet.fedcore.errors import ConfigError  # noqa: E402
from tinyfleet.fedcore.methods.method import Control  # noqa: E402
from tinyfleet.fedcore.methods.registry import METHODS, method_of  # noqa: E402
from tinyfleet.fedcore.run_spec import RunSpec, TrainingSettings  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.levers import Levers  # noqa: E402
from tinyfleet.fedcore.training.local_optimiser import LocalOptimiser  # noqa: E402

MU, CLIP = 0.4, 0.5
WAYS = {
    "adam": StepSettings(0.003, 0.9, 1e-2, optimiser="adam", epsilon=1e-5),
    "adamw": StepSettings(0.003, 0.9, 1e-2, optimiser="adamw", epsilon=1e-5),
    "clipped": StepSettings(0.05, 0.9, 1e-3, clip=CLIP),
    "proximal": StepSettings(0.05, 0.9, 1e-3, proximal=MU),
    "all": StepSettings(0.003, 0.9, 1e-2, optimiser="adamw", epsilon=1e-5, clip=CLIP, proximal=MU),
}


# -- by hand --------------------------------------------------------------------------------


def after(settings: StepSettings, gradients: list[list[float]], start: list[float]) -> np.ndarray:
    optimiser, values = LocalOptimiser(), {"w": np.array(start, np.float32)}
    for gradient in gradients:
        optimiser.step(settings, values, {"w": np.array(gradient, np.float32)})
    return values["w"]


def test_fedprox_draws_to_the_weights_that_were_loaded():
    # Step 1 is at the anchor: w = 1 - 0.5 (2) = 0. Step 2: g = 0 + 0.4 (0 - 1); w = 0 + 0.5 (0.4).
    assert after(StepSettings(0.5, proximal=0.4), [[2.0], [0.0]], [1.0]) == pytest.approx([0.2])


def test_clipping_is_of_the_whole_gradient():
    # |(3, 4)| = 5, cut to 1: (0.6, 0.8). What is shorter stays.
    assert after(StepSettings(1.0, clip=1.0), [[3.0, 4.0]], [0.0, 0.0]) == pytest.approx([-0.6, -0.8])
    assert after(StepSettings(1.0, clip=1.0), [[0.3, 0.4]], [0.0, 0.0]) == pytest.approx([-0.3, -0.4])
    two = LocalOptimiser()
    values = {"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)}
    two.step(StepSettings(1.0, clip=1.0), values, {"a": np.full(1, 3, np.float32), "b": np.full(1, 4, np.float32)})
    assert (values["a"][0], values["b"][0]) == pytest.approx((-0.6, -0.8))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam(name):
    settings = StepSettings(0.1, 0.5, 0.2, optimiser=name, second=0.75, epsilon=0.01)
    w, m, v = 1.0, 0.0, 0.0
    for t, slope in enumerate((2.0, -1.0), start=1):
        gradient = slope
        if name == "adam":
            gradient = slope + 0.2 * w
        else:
            w *= 1 - 0.1 * 0.2
        m, v = 0.5 * m + 0.5 * gradient, 0.75 * v + 0.25 * gradient**2
        w -= 0.1 * (m / (1 - 0.5**t)) / (math.sqrt(v / (1 - 0.75**t)) + 0.01)
    assert after(settings, [[2.0], [-1.0]], [1.0]) == pytest.approx([w], rel=1e-6)


# -- on the engines -------------------------------------------------------------------------


def witness(settings: StepSettings, model):
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=settings.momentum, **common)
    betas = (settings.momentum, settings.second)
    return kinds[settings.optimiser](model.parameters(), betas=betas, eps=settings.epsilon, **common)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("graph", [residual_graph(), one_dimensional_graph()], ids=lambda graph: graph.name)
def test_training_follows_torchs_own(engine_name, graph, way):
    settings, params = WAYS[way], graph.initial_params(0)
    engine = new_engine(engine_name)
    engine.load(graph, params, {})
    model = Reference(graph, params)
    anchors = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = witness(settings, model)
    for step in range(4):
        x, y = batch(graph, 12, seed=step)
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x).double()), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        if settings.proximal:
            for parameter, anchor in zip(model.parameters(), anchors, strict=True):
                parameter.grad += settings.proximal * (parameter.detach() - anchor)
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        assert engine.train_step(x, y, settings) == pytest.approx(float(loss.detach()), rel=1e-3)
    for name, value in engine.params().items():
        np.testing.assert_allclose(value, model.numpy()[name], rtol=5e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_masked_weights_stay_zero_and_micro_batches_add_up(engine_name, way):
    graph = residual_graph(norms=False)
    mask = masked(graph, 0.3)
    found = []
    for size in (0, 4):
        engine = new_engine(engine_name)
        engine.load(graph, graph.initial_params(0), mask)
        for step in range(3):
            engine.train_step(*batch(graph, 12, step), replace(WAYS[way], levers=Levers(size)))
        found.append(engine.params())
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=5e-3, atol=1e-4, err_msg=name)
        if name in mask:
            assert not values[~mask[name]].any()


def test_engines_agree_on_every_way():
    graph = residual_graph()
    for settings in WAYS.values():
        losses = []
        for name in ("torch", "native"):
            engine = new_engine(name)
            engine.load(graph, graph.initial_params(0), masked(graph, 0.3))
            losses.append([engine.train_step(*batch(graph, 12, step), settings) for step in range(5)])
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_new_model_begins_with_a_new_optimiser(engine_name):
    graph, (x, y) = residual_graph(), batch(residual_graph(), 12, 0)
    engine, ends = new_engine(engine_name), []
    for _ in range(2):
        engine.load(graph, graph.initial_params(0), {})
        ends.append([engine.train_step(x, y, WAYS["all"]) for _ in range(3)])
    assert ends[0] == ends[1]


def test_marked_weights_are_drawn_to_zero_in_every_step(engine_name):
    graph = residual_graph(norms=False)
    mask, x_y = masked(graph, 0.5), batch(graph, 12, 0)
    name = graph.maskable[0]
    positions = np.flatnonzero(mask[name].reshape(-1))[:20]
    norms = {}
    for penalty in (0.0, 1.0):
        engine = new_engine(engine_name)
        engine.load(graph, graph.initial_params(0), mask)
        engine.mark({name: positions})
        for _ in range(10):
            engine.train_step(*x_y, StepSettings(0.05, penalty=penalty, clip=1e6))
        norms[penalty] = engine.marked_norm()
    assert norms[1.0] < 0.5 * norms[0.0]


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_fedprox_needs_the_tasks_weights_all_round_long(kind):
    spec = RunSpec(method={"name": kind.name}, training=TrainingSettings(proximal=0.1))
    if kind.own_masks:
        with pytest.raises(ConfigError, match=f"training.proximal.*method {kind.name}"):
            method_of(spec)
    else:
        assert method_of(spec).step_settings(0.1, Control()).proximal == 0.1


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)
def test_every_method_trains_as_its_run_says(kind):
    training = TrainingSettings(
        optimiser="adamw", adam_second=0.9, adam_epsilon=1e-3, clip_gradient=2.0, proximal=0.0
    )
    settings = method_of(RunSpec(method={"name": kind.name}, training=training)).step_settings(0.1, Control())
    assert (settings.optimiser, settings.second, settings.epsilon, settings.clip) == ("adamw", 0.9, 1e-3, 2.0)
    assert settings.beyond_sgd
    assert settings.held_arrays == 2
