"""Every method runs on either engine unchanged, and comes out alike."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.e2e.conftest import spec_of
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.training.registry import available, create
from tinyfleet.simulation import Simulation

ADJUSTING = {"fedtiny", "fedmef", "feddst", "fedrts", "prunefl", "tinyfleet"}
ALIKE = 0.9  # correlation of all parameters: masks differ where two gradients are as good as equal


def run(spec, engine):
    """(mean losses of the steps that train, final state)."""
    simulation, losses = Simulation(spec, create(engine)), []
    while not simulation.finished:
        losses.append(simulation.step().loss)
    return [loss for loss in losses if loss is not None], simulation.state


@pytest.mark.skipif(len(available()) < 2, reason="needs both engines")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("fedavg", "fedtiny", "fedmef") else pytest.mark.slow)
        for name in registry.names()
    ],
)
def test_both_engines_train_alike(name):
    settings = {"name": name} | ({"density": 0.2} if name != "fedavg" else {})
    settings |= {"interval": 1} if name in ADJUSTING else {}
    spec = msgspec.structs.replace(spec_of(2, 2), method=settings)
    (native_losses, native), (torch_losses, torch) = (run(spec, engine) for engine in ("native", "torch"))
    assert len(native_losses) >= 2
    assert native_losses[0] == pytest.approx(torch_losses[0], rel=0.05)
    assert native_losses == pytest.approx(torch_losses, rel=0.25)
    assert native.params.keys() == torch.params.keys()
    assert native.mask.keys() == torch.mask.keys()
    counts = [sum(int(mask.sum()) for mask in state.mask.values()) for state in (native, torch)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    vectors = [np.concatenate([s.params[n].reshape(-1) for n in sorted(s.params)]) for s in (native, torch)]
    assert all(np.isfinite(v).all() for v in vectors)
    assert np.corrcoef(*vectors)[0, 1] > ALIKE
