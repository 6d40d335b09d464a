"""Fitting a board's numbers to probes: exact on data that follow the model, sane on data that do not."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tinyfleet.fedcore.planning.cost_model import CostModel, features_of_probe, fit, nonnegative, standard_probes
from tinyfleet.fedcore.planning.probe import Probe, Probed
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers

TRUE = CostModel("torch", 2.4e8, 2e7, 0.8, 1.1, 5.0, 1e-3, 9e-3, 3e-3, 2e-2, 4e-3, 1e-2)


def answered(probe: Probe, noise: float = 0.0, seed: int = 0) -> tuple[Probe, Probed]:
    """What a board that follows ``TRUE`` would say, with relative noise."""
    rng, features = np.random.default_rng(seed), features_of_probe(probe)
    peak, seconds = TRUE.peak_bytes(features), TRUE.step_seconds(features)
    off = 1.0 + noise * rng.standard_normal(2)
    taken = TRUE.engine_bytes + (peak - TRUE.engine_bytes) * off[0]
    return probe, Probed(int(peak), int(taken), int(TRUE.engine_bytes), seconds * off[1])


PRUNED = Levers(activation_keep=0.3, cache="fp16")


def grid() -> list[Probe]:
    models = [
        ModelSettings("small_cnn", (1, 28, 28), 10, {}),
        ModelSettings("resnet20", (3, 32, 32), 10, {}),
        ModelSettings("resnet20", (3, 32, 32), 10, {"norm": "nsconv"}),
        ModelSettings("mobilenet_v2", (3, 32, 32), 10, {"width": 0.5}),
    ]
    kinds = [{}, {"levers": PRUNED, "pruned_norms": True}, {"levers": Levers(8), "momentum": 0.9}]
    return [Probe(model, batch, **kind) for model in models for batch in (8, 64) for kind in kinds]  # type: ignore[arg-type]


def test_nonnegative_least_squares():
    columns = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert nonnegative(columns, np.array([2.0, 3.0, 5.0])) == pytest.approx([2.0, 3.0])
    assert nonnegative(columns, np.array([2.0, -3.0, -1.0]))[1] == 0.0
    assert nonnegative(columns, np.array([-1.0, -1.0, -1.0])) == [0.0, 0.0]


def test_a_board_that_follows_the_model_is_recovered():
    found = fit("torch", [answered(probe) for probe in grid()])
    for probe in standard_probes("torch"):
        features = features_of_probe(probe)
        assert found.peak_bytes(features) == pytest.approx(TRUE.peak_bytes(features), rel=0.01)
        assert found.step_seconds(features) == pytest.approx(TRUE.step_seconds(features), rel=0.02)


def test_the_standard_probes_are_enough_for_everything_else():
    """Six small probes with three per cent of noise: predictions of larger steps stay within 15 % of memory."""
    errors = []
    for seed in range(5):
        found = fit(
            "torch", [answered(probe, 0.03, 10 * seed + i) for i, probe in enumerate(standard_probes("torch"))]
        )
        assert all(value >= 0 for key, value in msgspec.structs.asdict(found).items() if isinstance(value, float))
        for probe in grid():
            features = features_of_probe(probe)
            errors.append(found.peak_bytes(features) / TRUE.peak_bytes(features) - 1)
    assert max(map(abs, errors)) < 0.15


def test_features_say_what_a_step_is():
    exact = features_of_probe(Probe(ModelSettings("resnet8", (3, 32, 32), 10, {}), 64))
    pruned = features_of_probe(
        Probe(ModelSettings("resnet8", (3, 32, 32), 10, {}), 64, Levers(activation_keep=0.3), pruned_norms=True)
    )
    parts = features_of_probe(Probe(ModelSettings("resnet8", (3, 32, 32), 10, {}), 64, Levers(16)))
    assert exact.pruned == 0 < pruned.pruned
    assert pruned.replayed < exact.replayed
    assert parts.passes == 4 * exact.passes
    assert parts.gflop == exact.gflop == pytest.approx(3 * 64 * 25.003264e-3)
    assert parts.replayed < exact.replayed / 2


@pytest.mark.parametrize(("micro_batch", "passes"), [(0, 1), (64, 1), (48, 2), (16, 4), (1, 64)])
def test_a_batch_takes_as_many_passes_as_its_micro_batch_asks_for(micro_batch, passes):
    assert Levers(micro_batch).passes(64) == passes


def test_a_probe_steps_by_its_settings():
    probe = Probe(ModelSettings("resnet8", (3, 32, 32), 10, {}), 8, PRUNED, pruned_norms=True, momentum=0.9)
    assert probe.settings == StepSettings(0.01, 0.9, 0.0, PRUNED, pruned_norm=True)
