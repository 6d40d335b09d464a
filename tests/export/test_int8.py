"""Integer files of very sparse models: dead filters and dead layers keep their biases."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")
pytest.importorskip("ai_edge_litert")

from tests.export.test_export import realistic, samples, trained_on
from tests.fedcore.training.graphs import one_dimensional_graph, residual_graph
from tinyfleet.export.report import export_model
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.registry import available

pytestmark = pytest.mark.skipif(not available(), reason="no training engine is installed")


def int8_rows(graph, params, mask, directory):
    reference = trained_on(graph, params, mask)
    x = samples(graph, 100)
    return export_model(
        graph, params, mask, directory, formats=("tflite-int8",), calibration=samples(graph, 128, 1), x=x,
        y=reference(x).argmax(1), reference=reference,
    )  # fmt: skip


def test_dead_filters_keep_their_bias(tmp_path):
    graph = residual_graph()
    params, _ = realistic(graph)
    for name in ("wide.weight", "depthwise.weight", "hidden.weight"):
        params[name][:4] = 0.0
    params["depthwise_norm.running_mean"][:4] = 0.0
    params["depthwise_norm.bias"][:4] = 2.0  # merged: the bias of a filter without weights
    params["hidden.bias"][:4] = 3.0
    rows = int8_rows(graph, params, {}, tmp_path)
    check(rows)
    assert all(row.max_rel_error < 0.05 for row in rows), rows


def test_nearly_dead_filters_keep_their_bias(tmp_path):
    graph = residual_graph()
    params, _ = realistic(graph)
    params["depthwise.weight"][:8] *= 1e-7
    params["depthwise_norm.running_mean"][:8] = 0.0
    params["depthwise_norm.bias"][:8] = 2.0
    rows = int8_rows(graph, params, {}, tmp_path)
    check(rows)
    assert all(row.max_rel_error < 0.05 for row in rows), rows


def test_a_layer_after_a_silent_one_keeps_its_bias(tmp_path):
    """The layer's input is always zero, so its scale is tiny and the logits are the biases."""
    graph = one_dimensional_graph()
    params, _ = realistic(graph)
    params["wide.weight"][:] = 0.0
    params["wide_norm.running_mean"][:] = 0.0
    params["wide_norm.bias"][:] = -1.0
    params["output.bias"][:] = [3.0, -2.0, 1.0, 0.5]
    rows = int8_rows(graph, params, {}, tmp_path)
    assert all(row.max_rel_error < 0.01 for row in rows), rows


@pytest.mark.parametrize("share", [0.05, 0.02, 0.01])
def test_a_very_sparse_model_decides_as_the_trained_one(share, tmp_path):
    graph = build(ModelSettings(name="resnet8", input_shape=(3, 32, 32), classes=10))
    params, mask = realistic(graph, share=share)
    rows = int8_rows(graph, params, mask, tmp_path)
    check(rows)
    assert all(row.max_rel_error < 0.05 for row in rows), rows


def test_a_relu_that_let_nothing_pass_when_calibrated(tmp_path):
    """Its range is empty though its layer has weights: XNNPACK refused the layer's scales."""
    graph = one_dimensional_graph()
    params, _ = realistic(graph)
    params["wide_norm.bias"][:] = -30.0
    rows = int8_rows(graph, params, {}, tmp_path)
    assert all(row.max_rel_error < 0.01 for row in rows), rows
