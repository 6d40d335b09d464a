"""Analytic costs against known networks and hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore import accounting
from tinyfleet.fedcore.models.builder import GraphBuilder
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import uniform_counts
from tinyfleet.fedcore.sparsity.mask import random_mask


def resnet18(norm="batch"):
    return build(ModelSettings("resnet18", (3, 32, 32), 10, {"norm": norm}))


def tiny(norm="batch"):
    b = GraphBuilder("tiny", (3, 8, 8), 4, norm)
    b.conv_norm("stem", 8)
    b.conv_norm("body", 8)
    b.global_avg_pool()
    b.linear("output", 4)
    return b.build([["body"]])


def test_a_dense_round_of_resnet18():
    """5 epochs of 5,000 samples: 8.33e13 FLOPs, from 1.111 GFLOP forward."""
    graph = resnet18()
    assert graph.flops() == pytest.approx(1.111e9, rel=2e-3)
    assert accounting.training_flops(graph, {}, 25_000) == pytest.approx(8.33e13, rel=2e-3)


def test_uniform_masks_at_one_percent_cost_what_fedtiny_reports():
    """0.014 of the dense FLOPs, with a dense stem: the paper's figure."""
    graph = resnet18()
    shapes = {name: graph.params[name].shape for name in graph.maskable}
    mask = random_mask(shapes, uniform_counts(shapes, 0.01), np.random.default_rng(0))
    ratio = accounting.training_flops(graph, mask, 1) / accounting.training_flops(graph, {}, 1)
    assert ratio == pytest.approx(0.014, abs=0.0015)


def test_activations_counted_by_hand():
    image, maps = 3 * 64, 8 * 64
    # stem input, its norm's input, body input, its norm's input, output layer's input; a bit a value for the
    # last activation, which only a pool reads.
    exact = 4 * (image + maps + maps + maps + 8) + maps / 8
    assert accounting.activation_bytes(tiny(), 1) == exact
    normalised = 4 * (image + maps + 8) + maps / 8
    assert accounting.activation_bytes(tiny("nsconv"), 1) == normalised
    bitmaps = (image + maps + 8) / 8 + 2 * maps / 8
    assert accounting.activation_bytes(tiny("nsconv"), 2, activation_keep=0.5) == 2 * (
        0.5 * 4 * (image + maps + 8) + bitmaps
    )
    half = 0.5 * 2 * (image + maps + 8) + bitmaps
    assert accounting.activation_bytes(tiny("nsconv"), 1, activation_keep=0.5, value=2) == half


def test_memory_of_a_sparse_step_by_hand():
    graph = tiny("nsconv")
    mask = {"body.weight": np.zeros(graph.params["body.weight"].shape, bool)}
    mask["body.weight"].reshape(-1)[:10] = True
    dense = sum(s.size for n, s in graph.params.items() if n != "body.weight")
    parameters = 4 * (dense + 10) + 8 * 8 * 9 // 8
    assert accounting.parameter_bytes(graph, mask) == parameters
    plain = accounting.training_memory(graph, mask, 2, held=0)
    assert plain == parameters + 4 * (dense + 10) + accounting.activation_bytes(graph, 2) + 2 * 4 * 2 * 8 * 64
    with_momentum = accounting.training_memory(graph, mask, 2, held=1, extra=100)
    assert with_momentum == plain + 4 * (dense + 10) + 100


def test_normalised_and_pruned_resnet18_needs_far_less():
    """FedMef's layers at keep 0.3 against batch norm's exact ones, at batch 64."""
    pruned = accounting.activation_bytes(resnet18("nsconv"), 64, activation_keep=0.3)
    assert pruned < (1 - 0.285) * accounting.activation_bytes(resnet18(), 64)


def test_dense_gradients_of_one_layer():
    graph = tiny()
    mask = {"body.weight": np.zeros(graph.params["body.weight"].shape, bool)}
    stem, body, output = 2 * 3 * 8 * 9 * 64, 2 * 8 * 8 * 9 * 64, 2 * 8 * 4
    assert graph.flops(mask) == stem + output
    assert accounting.gradient_flops(graph, mask, ["body.weight"], 3) == 3 * (2 * (stem + output) + body)
