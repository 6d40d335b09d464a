"""What only the torch engine has: momentum of its own, and tiles of gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.fedcore.training.graphs import batch, masked, residual_graph  # noqa: E402
from tinyfleet.fedcore.training.engine import StepSettings  # noqa: E402
from tinyfleet.fedcore.training.registry import create  # noqa: E402


def loaded(graph, mask):
    engine = create("torch")
    params = graph.initial_params(0)
    engine.load(graph, params, mask)
    return engine, params


def test_momentum_of_masked_weights_stays_exactly_zero():
    graph = residual_graph()
    mask = masked(graph, 0.2)
    engine, _ = loaded(graph, mask)
    for step in range(4):
        engine.train_step(*batch(graph, 8, step), StepSettings(0.1, momentum=0.9, weight_decay=0.01))
    for name, active in mask.items():
        assert not engine._momentum[name].numpy()[~active].any()
        assert engine._momentum[name].numpy()[active].all()


def test_top_gradients_hold_no_dense_gradient(monkeypatch):
    """The largest tensor that the weight-gradient kernel ever returns is one tile."""
    from tinyfleet.fedcore.training.torch import growth as torch_growth

    sizes = []
    inner = torch_growth.weight_gradient

    def spy(*args):
        gradient = inner(*args)
        sizes.append(gradient.numel())
        return gradient

    monkeypatch.setattr(torch_growth, "weight_gradient", spy)
    monkeypatch.setattr(torch_growth, "TILE_ELEMENTS", 64)
    graph = residual_graph()
    engine, _ = loaded(graph, masked(graph, 0.3))
    engine.top_gradients(*batch(graph, 8), {"hidden.weight": 5})
    assert max(sizes) == 4 * 64
    assert sum(sizes) == graph.params["hidden.weight"].size
