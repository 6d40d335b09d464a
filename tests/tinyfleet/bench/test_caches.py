"""What pruned activation caches save: resident memory of training steps, measured in fresh processes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tinyfleet.bench.caches import HALF, bench_caches, configuration, configurations, measure
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.planning.probe import Probe, probe
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers


@pytest.mark.slow
def test_a_small_model_is_measured():
    row = measure(configuration("resnet8", "nsconv", 8, Levers(activation_keep=0.5), steps=1))
    assert row.baseline_rss_mb > 100  # torch is in it
    assert 0 < row.peak_mb < 100
    assert row.seconds_step > 0
    assert row.activations_analytic_mb == pytest.approx(8 * 0.213, rel=0.3)


def test_a_failing_child_says_why():
    with pytest.raises(DataError, match="resnet81"):
        probe(Probe(ModelSettings("resnet81", (3, 32, 32)), 8))


def test_exact_comes_first_and_pruned_norms_last(monkeypatch):
    requests = list(configurations("resnet18", 64))
    assert requests[0] == configuration("resnet18", "batch", 64, NO_LEVERS)
    assert requests[-1].pruned_norms
    seen = []
    monkeypatch.setattr("tinyfleet.bench.caches.measure", lambda request: request)
    assert bench_caches(["resnet18"], 64, lambda row, done, total: seen.append((done, total))) == requests
    assert seen[-1] == (len(requests), len(requests))


@pytest.mark.slow
def test_resnet18_at_batch_64_takes_a_third_less():
    """Above the model, at 30 % of the activations; tuned allocator in both arms."""
    exact, pruned, half = (
        measure(configuration("resnet18", "nsconv", 64, levers, steps=2)).peak_mb
        for levers in (NO_LEVERS, Levers(activation_keep=0.3), HALF)
    )
    assert pruned <= 0.65 * exact, f"{pruned:.0f} MB against {exact:.0f} MB"
    assert half < pruned


@pytest.mark.slow
def test_pruned_and_normalised_takes_far_less_than_batch_norm():
    """FedMef's layers against FedTiny's and FedDST's; and batch norm with all its caches pruned."""
    batch_norm = measure(configuration("resnet18", "batch", 64, NO_LEVERS, steps=2)).peak_mb
    fedmef = measure(configuration("resnet18", "nsconv", 64, Levers(activation_keep=0.5), steps=2)).peak_mb
    everything = measure(configuration("resnet18", "batch", 64, HALF, pruned_norms=True, steps=2)).peak_mb
    assert fedmef <= (1 - 0.285) * batch_norm, f"{fedmef:.0f} MB against {batch_norm:.0f} MB"
    assert everything <= fedmef, f"{everything:.0f} MB against {fedmef:.0f} MB"
