"""FedMef step by step: extrusion, adjustment in all layers, pruned caches; and the defects of public versions."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.fedcore.methods.problems import dataset, devices, problem, run_step
from tests.fedcore.training.engines import new_engine
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.parts.extrusion import extrusion_rate, marked_weights
from tinyfleet.fedcore.methods.registry import create
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.sparsity.mask import active_counts, density
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.torch.engine import TorchEngine

SETTINGS = {"name": "fedmef", "density": 0.2, "interval": 2, "stop": 4, "activation_keep": 0.5}


@pytest.fixture(scope="module")
def engine(engine_name):
    return new_engine(engine_name)


def fedmef(rounds=6, **settings):
    return create({**SETTINGS, **settings}, problem(rounds))


class Recording(TorchEngine):
    """A torch engine that notes what is asked of it."""

    def __init__(self):
        super().__init__()
        self.steps: list[StepSettings] = []
        self.marks: list[dict[str, np.ndarray]] = []

    def train_step(self, x, y, settings):
        self.steps.append(settings)
        return super().train_step(x, y, settings)

    def mark(self, positions):
        self.marks.append(dict(positions))
        super().mark(positions)


# -- extrusion ---------------------------------------------------------------------------


def test_the_rate_is_the_formula_and_ends_at_the_rounds_own():
    assert extrusion_rate(0, 10, 2.0, 0.01, 0.1) == pytest.approx((2 / (1 + math.exp(-2.0)) - 1) * 0.1)
    middle = (20 - 8) / (20 - 4) * (2 / (1 + math.exp(-0.7)) - 1) * 0.1
    assert extrusion_rate(4, 10, 0.7, 0.001, 0.1) == pytest.approx(middle)
    assert extrusion_rate(10, 10, 2.0, 0.01, 0.1) == 0.01  # the budget is spent
    assert extrusion_rate(0, 10, 0.0, 0.01, 0.1) == 0.01  # nothing is left to extrude
    rates = [extrusion_rate(t, 10, 5.0, 0.01, 0.1) for t in range(11)]
    assert rates == sorted(rates, reverse=True)


def test_marked_weights_are_the_smallest_active_ones_not_the_masked_zeros():
    params = {"w": np.array([[0.0, 3.0, -1.0], [2.0, 0.0, -0.5]], np.float32)}
    mask = {"w": np.array([[False, True, True], [True, False, True]])}
    assert marked_weights(params, mask, {"w": 2})["w"].tolist() == [2, 5]


def test_the_penalty_is_lambda_times_the_squared_norm(engine):
    """Against a step without it: only marked weights differ, by rate * 2 lambda w."""
    method = fedmef()
    graph = method.problem.graph
    state = method.initial_state(engine, dataset(96, 1))
    marked = marked_weights(state.params, state.mask, {"conv1.weight": 7})
    x, y = dataset(16, 5).x, dataset(16, 5).y
    results = []
    for strength in (0.0, 0.25):
        engine.load(graph, state.params, state.mask)
        engine.mark(marked)
        expected_norm = np.linalg.norm(state.params["conv1.weight"].reshape(-1)[marked["conv1.weight"]])
        assert engine.marked_norm() == pytest.approx(float(expected_norm), rel=1e-5)
        engine.train_step(x, y, StepSettings(0.1, penalty=strength))
        results.append(engine.params())
    shift = results[1]["conv1.weight"] - results[0]["conv1.weight"]
    expected = np.zeros_like(shift).reshape(-1)
    at = marked["conv1.weight"]
    expected[at] = -0.1 * 2 * 0.25 * state.params["conv1.weight"].reshape(-1)[at]
    np.testing.assert_allclose(shift.reshape(-1), expected, atol=1e-6)
    others = [name for name in results[0] if name != "conv1.weight"]
    assert all(np.array_equal(results[0][name], results[1][name]) for name in others)


def test_extrusion_runs_in_adjustment_rounds_alone_with_a_fixed_set():
    engine = Recording()
    method = fedmef(extrusion_strength=0.01)
    state = method.initial_state(engine, dataset(96, 1))
    device = devices(1)
    penalised = []
    for round_index in range(5):
        engine.steps.clear()
        engine.marks.clear()
        state, _ = run_step(method, engine, state, device)
        if round_index in {2, 4}:
            assert len(engine.marks) == 2  # set once, cleared at the end
            assert engine.marks[1] == {}
        else:
            assert engine.marks == []
        penalised.append({step.penalty for step in engine.steps})
    # r = 4 = R_stop: the cosine is at zero, so nothing is pruned, but the round still is an adjustment round.
    assert penalised == [{0.0}, {0.0}, {0.01}, {0.0}, {0.01}]


@pytest.mark.parametrize(("budget", "steps", "first"), [(0, 3, 0), (2, 3, 1), (5, 5, 0)])
def test_the_budget_bounds_the_steps(budget, steps, first):
    """Fewer than the round's three: the last of them; more: further epochs."""
    engine = Recording()
    method = fedmef(extrusion_steps=budget)
    state = method.initial_state(engine, dataset(96, 1))
    for _ in range(2):
        state, _ = run_step(method, engine, state, devices(1))
    engine.steps.clear()
    run_step(method, engine, state, devices(1))
    assert [step.penalty > 0 for step in engine.steps] == [index >= first for index in range(steps)]
    base = method.problem.training.learning_rate_at(2)
    assert all(step.learning_rate >= base for step in engine.steps)


def test_extrusion_moves_the_marked_weights_towards_zero(engine):
    """With a strong penalty what is pruned afterwards has next to nothing left."""
    left = {}
    for strength in (0.0, 2.0):
        method = fedmef(extrusion_strength=strength, extrusion_steps=20, scale=0.4)
        state = method.initial_state(engine, dataset(96, 1))
        for _ in range(2):
            state, _ = run_step(method, engine, state, devices())
        counts = method.adjustment(state)
        marked = marked_weights(state.params, state.mask, counts)
        _, results = run_step(method, engine, state, devices())
        left[strength] = float(
            np.mean([np.abs(r.params[n].reshape(-1)[p]).mean() for r in results for n, p in marked.items()])
        )
    assert left[2.0] < 0.4 * left[0.0]


# -- the whole ---------------------------------------------------------------------------


def test_it_starts_from_a_random_erk_mask_of_random_weights(engine):
    state = fedmef().initial_state(engine, dataset(96, 1))
    assert density(state.mask) == pytest.approx(0.2, abs=0.002)
    shares = {name: float(active.mean()) for name, active in state.mask.items()}
    assert shares["conv0.weight"] > shares["conv1.weight"]  # ERK: narrow layers are denser
    initial = problem().graph.initial_params(0)
    name = "conv1.weight"
    assert np.array_equal(state.params[name][state.mask[name]], initial[name][state.mask[name]])


def test_all_layers_adjust_at_once_and_counts_never_drift(engine):
    method = fedmef(rounds=7, stop=6)
    state = method.initial_state(engine, dataset(96, 1))
    before = active_counts(state.mask)
    for round_index in range(7):
        mask = state.mask
        grow = method.configure_round(state).meta["grow"]
        state, results = run_step(method, engine, state, devices())
        assert active_counts(state.mask) == before
        changed = {name for name in mask if not np.array_equal(mask[name], state.mask[name])}
        expected = {
            name: math.floor(0.2 * (1 + math.cos(math.pi * round_index / 6)) * count + 1e-9)
            for name, count in before.items()
        }
        if round_index in {2, 4}:
            assert grow == expected
            assert changed == set(before)
            for result in results:
                assert {n: len(v.positions) for n, v in result.gradients.items()} == expected
        else:
            assert not changed
        for name, active in state.mask.items():
            assert not state.params[name][~active].any()


def test_training_uses_the_smaller_of_the_methods_and_the_boards_cache():
    method = fedmef(activation_keep=0.5)
    assert method.step_settings(0.1, Control()).levers.activation_keep == 0.5
    assert method.step_settings(0.1, Control(Levers(activation_keep=0.3))).levers.activation_keep == 0.3
    assert fedmef(activation_keep=1.0).step_settings(0.1, Control()).levers.activation_keep == 1.0


def test_pruned_caches_and_extrusion_under_fedtiny(engine):
    """Parts are shared: BN selection, extrusion and scaled activation pruning in one run."""
    own = problem()
    training = type(own.training)(rounds=6, batch=16, activation_keep=0.5, activation_precision="fp16")
    shared = type(own)(own.graph, training, own.seed, own.wire_precision)
    settings = {"name": "fedtiny", "density": 0.2, "candidates": 3, "interval": 2, "stop": 4, "extrusion": True}
    method = create(settings, shared)
    recording = Recording()
    state = method.initial_state(recording, dataset(96, 1))
    while state.meta["round"] < 3:
        recording.steps.clear()
        state, _ = run_step(method, recording, state, devices())
    assert {s.levers for s in recording.steps} == {Levers(0, 0.5, "fp16")}
    assert any(step.penalty for step in recording.steps)
    assert density(state.mask) <= 0.2


def test_it_learns_and_survives_the_wire(engine):
    method = fedmef(rounds=12, stop=8)
    state = method.initial_state(engine, dataset(96, 1))
    data = devices()
    losses = []
    while not method.finished(state):
        task = decode(encode(method.configure_round(state), precision="fp16"))
        fold = method.begin_fold(state)
        for device in data:
            blob = encode(method.run(task, engine, device, Control()), precision="fp16", send_mask=False)
            method.fold(fold, decode(blob, held=lambda digest, mask=state.mask: mask))
        state = method.finish_round(decode(encode(state, precision="fp32")), fold)
        losses.append(state.meta["metrics"]["loss"])
    assert losses[-1] < 0.7 * losses[0]
